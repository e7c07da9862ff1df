"""Risk answers in, policy out."""

from __future__ import annotations

from flows.stage import Context, main
from tasks.files import write_json
from tasks.risk import POLICY_FILE, decide


def risk(context: Context) -> None:
    """Turn the answers in params.yaml (section risk) into reports/policy.json, each row with its reason."""
    policy = decide(context.params.risk)
    write_json(POLICY_FILE, policy.model_dump(mode="json"))
    context.say(
        f"candidate {policy.candidate}; required gates: {', '.join(policy.required())}; output: {policy.output}"
    )


if __name__ == "__main__":
    main("risk", risk)
