"""A teacher's model from its card alone, for questions that need no data of ours: the same safe way as `case`."""

from __future__ import annotations

from tasks.errors import GatehouseError
from tasks.files import sha256_bytes
from tasks.models.architectures import Classifier, ModelSpec, build
from tasks.models.checkpoints import check_tensors
from tasks.teachers.card import Offer
from tasks.teachers.loading import read_tensors
from tasks.teachers.names import to_classifier_names


def open_teacher(
    offer: Offer, *, channels: int | None = None, image_size: int | None = None
) -> tuple[Classifier, ModelSpec, str]:
    """The model in evaluation mode, what it takes and answers, and the digest of its file; nothing in it is run.

    Args:
        channels, image_size: of the images that it shall take, where they are not those that the card names.

    Raises:
        GatehouseError: there is no such file, it is not the one that the card pins, it is of a format that can run
            code, or its tensors do not fit the architecture or are not finite.
    """
    card = offer.card
    try:
        data = offer.weights.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise GatehouseError(
            f"{offer.weights} does not exist; put the file there or correct `file` in {offer.path}."
        ) from None
    sha256 = sha256_bytes(data)
    if sha256 != card.sha256:
        raise GatehouseError(
            f"{offer.weights} has sha256 {sha256[:16]}…, but {offer.path} pins {card.sha256[:16]}…; it is another file."
        )
    tensors = to_classifier_names(card.architecture, read_tensors(data, card.format, source=str(offer.weights)))
    spec = card.spec(channels=channels, image_size=image_size)
    model = build(spec, seed=0)
    check_tensors(model, tensors, source=str(offer.weights))
    model.load_state_dict(tensors)
    return model.eval(), spec, sha256
