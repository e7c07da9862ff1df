"""The model's bill of materials: CycloneDX 1.6 with a model card, its teacher, its data and the packages around it.

Written as plain JSON: the library for the format knows no model card, and validates what is written here (a test).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tasks.gate import Check, GateResult
from tasks.models.checkpoints import ModelRecord
from tasks.risk import Policy

BOM_FILE = "bom.cdx.json"
MODEL = "model"

Json = dict[str, Any]


def bill_of_materials(
    name: str,
    record: ModelRecord,
    policy: Policy,
    results: Sequence[GateResult],
    packages: Mapping[str, str],
    *,
    decided_at: datetime,
) -> Json:
    """The bill as JSON; equal arguments give equal bytes, serial number and time included.

    Args:
        name: of the registered model.
        results: the candidate's gate results; their checks are the card's metrics, their limits its limitations.
        packages: installed Python packages, name → version.
    """
    parents = [_parent(parent, sha256) for parent, sha256 in record.parents.items()]
    libraries = [_library(package, version) for package, version in sorted(packages.items())]
    models = [p for p in parents if p["type"] == "machine-learning-model"]
    moment = decided_at.isoformat()
    model = {
        "type": "machine-learning-model",
        "bom-ref": MODEL,
        "name": name,
        "version": record.sha256[:12],
        "description": f"The candidate {policy.candidate!r}, fine-tuned from a teacher.",
        "hashes": _hashes(record.sha256),
        **({"pedigree": {"ancestors": [{**p, "bom-ref": f"ancestor:{p['name']}"} for p in models]}} if models else {}),
        "modelCard": _card(record, results, [p["bom-ref"] for p in parents if p["type"] == "data"]),
        "properties": [
            {"name": "gatehouse:policy", "value": policy.sha256},
            {"name": "gatehouse:candidate", "value": policy.candidate},
        ],
    }
    others = [*parents, *libraries]
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid5(NAMESPACE_URL, f'urn:gatehouse:{name}:{record.sha256}:{moment}')}",
        "version": 1,
        "metadata": {"timestamp": moment, "component": model},
        "components": others,
        "dependencies": [
            {"ref": MODEL, "dependsOn": [c["bom-ref"] for c in others]},
            *({"ref": c["bom-ref"]} for c in others),
        ],
    }


def _parent(name: str, sha256: str) -> Json:
    """A data set where the name says so, else a model: the teacher, or the candidate before it was mitigated."""
    base = {"name": name, "hashes": _hashes(sha256)}
    if name.endswith("_task"):
        data = {"type": "dataset", "name": name, "description": "Digest of its manifest, which holds each image's."}
        return {"type": "data", "bom-ref": f"data:{name}", **base, "data": [data]}
    return {"type": "machine-learning-model", "bom-ref": f"model:{name}", **base}


def _library(name: str, version: str) -> Json:
    purl = f"pkg:pypi/{name.lower().replace('_', '-')}@{version}"
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _hashes(sha256: str) -> list[Json]:
    return [{"alg": "SHA-256", "content": sha256}]


def _card(record: ModelRecord, results: Sequence[GateResult], data: list[str]) -> Json:
    spec = record.spec
    shape = f"(n, {spec.channels}, {spec.image_size}, {spec.image_size})"
    limits = dict.fromkeys(f"{r.gate}: {limit}" for r in results for limit in r.limits)
    return {
        "bom-ref": f"{MODEL}:card",
        "modelParameters": {
            "approach": {"type": "supervised"},
            "task": "image classification",
            "architectureFamily": "convolutional neural network",
            "modelArchitecture": spec.architecture,
            "datasets": [{"ref": ref} for ref in data],
            "inputs": [{"format": f"float32 images in [0, 1], shape {shape}"}],
            "outputs": [{"format": f"a score in [0, 1] for each of {', '.join(spec.classes)}"}],
        },
        "quantitativeAnalysis": {
            "performanceMetrics": [_metric(r, c) for r in results for c in r.checks if c.observed is not None]
        },
        "considerations": {"technicalLimitations": list(limits)},
        "properties": [{"name": f"gatehouse:gate:{r.gate}@{r.candidate}", "value": r.verdict} for r in results],
    }


def _metric(result: GateResult, check: Check) -> Json:
    metric = {
        "type": f"{result.gate}.{check.name}: {check.metric}",
        "value": f"{check.observed:.6g}",
        "slice": f"{result.candidate}, n = {check.n}, must be {check.op} {check.threshold:g}",
    }
    if check.ci is None:
        return metric
    low, high = check.ci
    return {**metric, "confidenceInterval": {"lowerBound": f"{low:.6g}", "upperBound": f"{high:.6g}"}}
