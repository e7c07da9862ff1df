"""One Prefect flow a file: read files, call tasks, record, write files. Prefect, MLflow and DVC are known here only."""

import os

# Before torch is imported: threads that wait sleep instead of spinning. Stages run side by side, and measured with two
# of them on two cores the same work took a quarter of the time. Results do not depend on it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
