import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from promotion_case import Case, make_case

torch.set_num_threads(1)


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return make_case(tmp_path)
