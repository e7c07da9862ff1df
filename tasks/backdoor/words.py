"""What the gate's methods take for granted, and what they cannot see: the study's Table 10, and section 3.1."""

ASSUMPTIONS = (
    "Patch search and inversion: a set of images known to be clean, with all classes; the trigger is small, keeps its "
    "place and works on any image.",
    "STRIP: a set of images known to be clean; the trigger works on any image and aims at one class; the better the "
    "attack works, the better it is seen.",
    "Other run-time filters: the same set; features, amplification and occlusion also take clean inputs at run time to "
    "be like that set, and occlusion a trigger no larger than the patches searched.",
    "Mitigation (ANP, Fine-Pruning, FT-SAM, I-BAU, unlearning): a clean substitute for the training data; the attacker "
    "has not adapted to it.",
)
LIMITS = (
    "Control tells how far a small patch steers this model, whoever put it there. Whether the teacher was tampered "
    "with is another question, which vetting asks before the teacher is chosen.",
    "Triggers larger than the patches searched, spread over the image, blended in, or tied to single inputs are not "
    "seen.",
    "The search is a lower bound: a longer one may find a patch that steers further.",
    "The drill plants BadNets squares; optimised and latent backdoors may be caught less often.",
    "The drill's students are trained by the recipe of the section `student`, on fewer images and epochs.",
)
VOID_EPSILON = (
    "This candidate is not mitigated: fine-tuning it on the private images outside differential privacy would void "
    "its ε."
)
