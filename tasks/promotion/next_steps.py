"""What to do next when a check does not hold: the study's flow charts (4.3.3, Figures 37 and 38; 8.4) as a table."""

from __future__ import annotations

# `gate.check` first, then `gate`: what the study advises, in the order in which it advises it.
NEXT_STEPS: dict[str, str] = {
    "data": "Read the data report, correct the source or quarantine the records, and run again (4.3.2: the student's "
    "data must come from a trusted source).",
    "data.unreadable_share": "Obtain the images again from their source: too many cannot be read to trust the rest.",
    "data.expectations_failed": "Read the failed expectations in `reports/data.json` and correct the source or its "
    "layout.",
    "data.quarantined_share": "Obtain the set-aside images again, or find out why so many are copies, blank or broken.",
    "data.conflicting_label_share": "Have the images that stand under two labels judged anew by somebody who can tell.",
    "data.split_leaks": "Declare patients or groups in the source, so that no image of one is in two splits.",
    "data.teacher_overlap_share": "Take the shared images out of the student's data, or choose a teacher that has not "
    "seen them (4.3.1: disclosed training data).",
    "data.source_changes": "Find out who changed the source and why; declare the change in `data.declared_source`, or "
    "restore what was there.",
    "data.shortcut_balanced_accuracy_gain": "Take the shortcut away: set `data.remedy` to crop or mask_corners, "
    "whichever is not on yet, or supply lung masks; else collect data from several sources, so that the border no "
    "longer tells the class (4.3.2).",
    "data.smallest_class_share_minimum": "Collect more images of the rarest class, or leave that class out.",
    "provenance": "Replace the teacher (4.3.1): take one whose provider, signature and training data can be verified.",
    "provenance.teacher_accuracy": "Replace the teacher by one that does its own task better, or check that its "
    "classes are the ones that your test images have.",
    "provenance.failed_checks": "Replace the teacher (4.3.1, first box of Figure 37); accept single failures by name "
    "in `teacher.waive` only with a reason that you would sign.",
    "backdoor": "As in Figure 37: replace the teacher; retrain more layers; mitigate; else train from scratch.",
    "backdoor.trigger_control": "In the order of Figure 37: replace the teacher; retrain more layers (`student.freeze: "
    "all`) against patches (`student.patch_probability` and `student.patch_adversarial` above 0); mitigate "
    "(`backdoor.mitigation`, a list tried in order: patch_adversarial, unlearning, fine_pruning, ft_sam, i_bau, anp); "
    "if none helps, train from scratch on trusted data.",
    "backdoor.patch_control": "Retrain more layers (`student.freeze: all`) against adversarial patches "
    "(`student.patch_adversarial: 1.0`) and for more epochs; take a border shortcut in the data away "
    "(`data.remedy`); filter inputs at run time as an extra step only (4.3.3).",
    "backdoor.accuracy_minimum": "Retrain with more trainable layers, more epochs or more data; if mitigation cost the "
    "accuracy, replace the teacher instead of mitigating (4.3.3: blind mitigation costs accuracy).",
    "adversarial": "In the order of Figure 38: lower the similarity to the teacher by retraining more layers, keep the "
    "teacher's identity to yourself, limit queries, train adversarially.",
    "adversarial.attack_sanity": "The attacks did not behave as sound attacks do, so their failure proves nothing: "
    "raise `adversarial.steps` and `adversarial.images`, and look for what hides the gradients.",
    "adversarial.gray_box_success": "Lower the similarity between student and teacher (Figure 38): retrain more "
    "layers (`student.freeze: all`), train against larger changes (`student.adversarial_budget: 0.0235` is 6 of 255), "
    "choose a teacher that is not public, and do not disclose which one was used.",
    "adversarial.black_box_success": "Limit cheap and frequent queries (C.2, C.3), answer with labels only, and train "
    "adversarially (`student.adversarial_budget: 0.0157`, 4 of 255).",
    "adversarial.white_box_success": "Do not expose the model's internals (C.4), limit cheap and frequent queries "
    "(C.2, C.3), and train against larger changes (`student.adversarial_budget: 0.0235` is 6 of 255; Figure 38).",
    "privacy": "Regularise first (fewer epochs, more weight decay), then promote the private candidate (8.4.1).",
    "privacy.membership_advantage": "Regularise first (fewer epochs, `student.patience` lower, `student.weight_decay` "
    "higher: 8.4.1 prefers the simpler means); if that is not enough, promote the candidate trained with differential "
    "privacy at a lower `privacy.target_epsilon`.",
    "privacy.tpr_at_1_fpr": "Find the records that stand out (rare classes, outliers) and add data like them; else "
    "promote the candidate trained with differential privacy (8.4.1: a proof is preferred over a measurement).",
    "privacy.epsilon": "Lower `privacy.target_epsilon`, and collect more training records, which keeps accuracy.",
    "champion.balanced_accuracy": "Keep the champion; retrain (more epochs, more data, another freeze policy), or "
    "raise `promotion.accuracy_margin` if this loss is a price worth paying for what the new model brings.",
}

# A gate whose drill fell short proves nothing, whatever its checks say.
DRILLS: dict[str, str] = {
    "backdoor": "The gate could not be trusted, so nothing was shown: search longer (`backdoor.search_steps`, "
    "`backdoor.restarts`, `backdoor.search_images`), plant more canaries (`drill.canaries`, `drill.clean_references`), "
    "or train longer, for a weak model cannot be told from a steered one.",
    "adversarial": "The gate could not be trusted, so nothing was shown: attack more images and for longer "
    "(`adversarial.images`, `adversarial.steps`), on a candidate that answers enough of them right.",
    "privacy": "The gate could not be trusted, so nothing was shown: ask about more records and train more reference "
    "heads (`privacy.attack_images`, `privacy.references`).",
}
DRILL = "The gate could not be trusted, so nothing was shown: give its drill more models and images, and run it again."
UNMEASURED = "The figure could not be measured: give the gate more images or fewer missing classes, and run it again."
UNBOUND = "Run `make run`: the gate must judge the very files that are to be promoted, under the policy in force."


def next_step(gate: str, check: str) -> str:
    """The advice for a check, or for its gate where the check has no row of its own."""
    return NEXT_STEPS.get(f"{gate}.{check}") or NEXT_STEPS.get(gate, UNBOUND)
