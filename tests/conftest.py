"""Check the types and shapes in dnrlib's signatures during tests; one thread a process."""

import torch
from beartype import BeartypeConf, beartype
from hypothesis import settings
from jaxtyping import install_import_hook

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
install_import_hook("dnrlib", "conftest.checked")

settings.register_profile("dnr", deadline=None, derandomize=True, database=None)
settings.load_profile("dnr")

torch.set_num_threads(1)
