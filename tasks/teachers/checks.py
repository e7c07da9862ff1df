"""The checks of a teacher's provenance, one function each, in one table.

Each returns pass, fail or unknown with its evidence in one sentence. `unknown` means that there was nothing to measure
by; it neither refuses a candidate nor speaks for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from tasks.errors import GatehouseError
from tasks.teachers import formats, signatures
from tasks.teachers.case import Case

Status = Literal["pass", "fail", "unknown"]


@dataclass(frozen=True)
class Finding:
    """What one check found. `waived` says that it failed, and the user accepts that."""

    name: str
    status: Status
    evidence: str
    waived: bool = False


Answer = tuple[Status, str]


def digest(case: Case) -> Answer:
    """Is the file the one that the card pins?"""
    if case.sha256 is None:
        return (
            "fail",
            f"{case.offer.weights} does not exist; put the file there or correct `file` in {case.offer.path}.",
        )
    if not case.digest_matches:
        return "fail", f"The card pins sha256 {case.offer.card.sha256[:16]}…, the file has {case.sha256[:16]}…."
    return "pass", f"The file has the sha256 that the card pins, {case.sha256[:16]}…."


def signature(case: Case) -> Answer:
    """Does somebody we trust stand behind the file?"""
    card = case.offer.card.signature
    if card is None:
        return "fail", "The card names no signature, so nobody stands behind the file."
    if case.sha256 is None:
        return "unknown", "There is no file to verify."
    try:
        signed = signatures.verify(
            case.offer.weights,
            case.sha256,
            signature=case.offer.beside(card.file),
            public_key=case.offer.beside(card.public_key),
        )
    except GatehouseError as error:
        return "fail", str(error)
    if signed.key not in case.rules.trusted_keys:
        return "fail", f"The signature verifies, but its key {signed.key[:16]}… is not among teacher.trusted_keys."
    covers = "the weights and the card" if case.offer.path.name in signed.files else "the weights alone"
    return "pass", f"A signature over {covers} verifies with the trusted key {signed.key[:16]}…."


def real_format(case: Case) -> Answer:
    """Is the file of the format that the card declares, and is that one which runs no code?"""
    declared, found = case.offer.card.format, case.found_format
    if found is None:
        return "unknown", "There is no file to look at."
    if found != declared:
        return "fail", f"The card declares {declared}, but by its first bytes the file is {formats.FORMATS[found]}."
    if found not in formats.SAFE:
        return "fail", f"The file is {formats.FORMATS[found]}; only {' and '.join(formats.SAFE)} are accepted."
    return "pass", f"By its first bytes the file is {formats.FORMATS[found]}, as declared."


def safe_load(case: Case) -> Answer:
    """Could the tensors be read without running anything?"""
    if case.tensors is not None:
        return "pass", f"{len(case.tensors)} tensors were read; nothing in the file was run."
    if case.sha256 is None or not case.digest_matches:
        return "unknown", case.load_error
    return "fail", case.load_error


def tensors(case: Case) -> Answer:
    """Do names, shapes and types fit the architecture that the card declares?"""
    if case.tensors is None:
        return "unknown", "No tensors were loaded."
    if case.model is None:
        return "fail", case.model_error
    count = sum(p.numel() for p in case.model.parameters())
    return "pass", f"All {len(case.tensors)} tensors fit {case.offer.card.architecture} ({count:,} parameters)."


def finite(case: Case) -> Answer:
    """Is every weight a finite number?"""
    if case.tensors is None:
        return "unknown", "No tensors were loaded."
    bad = [k for k, v in case.tensors.items() if v.is_floating_point() and not bool(torch.isfinite(v).all())]
    if bad:
        return "fail", f"{len(bad)} tensor(s) hold values that are not finite, first {bad[0]!r}."
    return "pass", "All weights are finite."


def plausible(case: Case) -> Answer:
    """Do the weights look trained: no constant weight matrix, no negative variance, less than half the filters dead?"""
    if case.tensors is None:
        return "unknown", "No tensors were loaded."
    for name, value in case.tensors.items():
        if name.endswith("running_var") and bool((value < 0).any()):
            return "fail", f"{name} holds a variance below 0."
        if value.is_floating_point() and value.dim() >= 2:
            if bool((value == value.flatten()[0]).all()):
                return "fail", f"All values of {name} are equal, as in a network that was never trained."
            dead = (value.flatten(1) == 0).all(1).float().mean().item()
            if dead >= 0.5:
                return "fail", f"{dead:.0%} of the outputs of {name} are dead (all weights 0)."
    return "pass", "No weight matrix is constant, no variance is negative, and fewer than half of the filters are dead."


def inputs(case: Case) -> Answer:
    """Can the network take our images?"""
    takes, have = case.offer.card.channels, case.task.channels
    if have not in (1, takes):
        return "fail", f"The network takes {takes}-channel images, our data have {have}; set data.channels to {takes}."
    if have != takes:
        return "pass", f"Our gray images are repeated to the {takes} channels that the network takes."
    return "pass", f"The network takes images of {takes} channel(s), as our data have."


def licence(case: Case) -> Answer:
    """May it be used?"""
    own = case.offer.card.licence
    accepted = ", ".join(case.rules.licences_accepted)
    if own not in case.rules.licences_accepted:
        return "fail", f"Licence {own!r} is not among those accepted ({accepted})."
    return "pass", f"Licence {own} is among those accepted."


def advisories(case: Case) -> Answer:
    """Has anybody warned about this file?"""
    known = case.rules.advisories
    if known is None or not known.advisories:
        return "unknown", "There are no advisories to compare with; list them in the file teacher.advisories."
    digests = {case.sha256, case.offer.card.sha256} - {None}
    if hits := [a for d in digests for a in known.about(str(d))]:
        return "fail", f"Advisory {hits[0].id} names this file: {hits[0].text}"
    return "pass", f"None of {len(known.advisories)} advisories names this file."


def disclosed_data(case: Case) -> Answer:
    """Does the provider say what the teacher was trained on?"""
    data = case.offer.card.training_data
    if not data.disclosed:
        return "fail", "The provider does not disclose the training data."
    if data.manifest_sha256 is None:
        return "pass", f"Disclosed by name only: {data.name}; without a manifest's digest it cannot be compared."
    if data.manifest_sha256 == case.task.manifest_sha256:
        return "pass", f"Disclosed: {data.name}, whose manifest is the one of data/teacher_task."
    return "pass", f"Disclosed: {data.name}, by a manifest other than that of data/teacher_task."


def accuracy(case: Case) -> Answer:
    """Does it do its own task on our test images?"""
    measured = case.accuracy
    if measured is None:
        same = set(case.offer.card.class_names) == set(case.task.classes)
        reason = "There is no model that could be run" if same else "Its classes are not those of our own task"
        return "unknown", f"{reason}, so its accuracy was not measured."
    figure = f"{measured.value:.3f} [{measured.low:.3f}, {measured.high:.3f}] on {measured.n} of our own test images"
    needed = case.rules.min_accuracy
    if measured.low < needed:
        return "fail", f"Accuracy {figure}, whose low end is below {needed:.2f}."
    return "pass", f"Accuracy {figure}, whose low end reaches {needed:.2f}."


CHECKS: dict[str, Callable[[Case], Answer]] = {
    "digest": digest,
    "signature": signature,
    "format": real_format,
    "safe_load": safe_load,
    "tensors": tensors,
    "finite": finite,
    "plausible": plausible,
    "inputs": inputs,
    "licence": licence,
    "advisories": advisories,
    "disclosed_data": disclosed_data,
    "accuracy": accuracy,
}
# Without these there is no model that could safely be loaded, or none that could run: nobody can waive them.
BINDING = ("digest", "format", "safe_load", "tensors", "finite", "inputs")


def check_waivers(waive: tuple[str, ...]) -> None:
    """Raises GatehouseError where `teacher.waive` names no check, or one that cannot be waived."""
    allowed = [n for n in CHECKS if n not in BINDING]
    for name in waive:
        if name in BINDING:
            raise GatehouseError(
                f"params.yaml: teacher.waive names {name!r}, which cannot be waived, since without it no model can "
                f"safely be loaded; these can be waived: {', '.join(allowed)}."
            )
        if name not in CHECKS:
            raise GatehouseError(
                f"params.yaml: teacher.waive names {name!r}, which is no check; known are {', '.join(allowed)}."
            )


def run_checks(case: Case, waive: tuple[str, ...]) -> tuple[Finding, ...]:
    """Every check of the table, in its order; a failure that the user accepts is marked waived."""
    check_waivers(waive)
    findings = []
    for name, check in CHECKS.items():
        status, evidence = check(case)
        findings.append(Finding(name, status, evidence, waived=status == "fail" and name in waive))
    return tuple(findings)
