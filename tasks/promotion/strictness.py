"""Is one policy weaker than another? A champion proven under a weaker one than is in force is proven no more."""

from __future__ import annotations

from tasks.risk import Policy

DISCLOSURE = ("labels", "rounded", "scores")  # from what reveals least


def weaker(signed: Policy, in_force: Policy) -> list[str]:
    """In which points `signed` asks for less than `in_force`, each a clause; empty where in none.

    Where it asks for more, that is no objection: the champion was proven by more than is needed.
    """
    found = []
    if in_force.candidate == "private_student" != signed.candidate:
        found.append("it promotes a student without differential privacy, and a private one is required")
    for gate in in_force.required():
        if gate not in signed.required():
            found.append(f"it does not require the gate {gate}")
    for key, limit in in_force.thresholds.items():
        if key.split(".", 1)[0] not in in_force.required():
            continue
        allowed = signed.thresholds.get(key)
        if allowed is None:
            found.append(f"it sets no limit for {key}, and {limit:g} is in force")
        elif allowed < limit if key.endswith("_minimum") else allowed > limit:
            found.append(f"it allows {key} {allowed:g}, and {limit:g} is in force")
    if DISCLOSURE.index(signed.output) > DISCLOSURE.index(in_force.output):
        found.append(f"it reveals {signed.output}, and only {in_force.output} may be revealed")
    return found
