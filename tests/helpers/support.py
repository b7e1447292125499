"""Former names of the helpers, which now are in bundles.py, commands.py, eval_runs.py, training_runs.py and others."""

from tests.helpers.bundles import CORPUS as WORDS
from tests.helpers.bundles import write_tiny_bundle
from tests.helpers.commands import require_program as installed
from tests.helpers.commands import run_module_in_process
from tests.helpers.documents import code_blocks as blocks
from tests.helpers.documents import with_server_urls as at
from tests.helpers.eval_runs import eval_command, write_split
from tests.helpers.fake_endpoint import FakeEndpoint
from tests.helpers.paths import PHOTOS, ROOT
from tests.helpers.polling import eventually
from tests.helpers.servers import running_server
from tests.helpers.training_runs import PHOTO_SPLITS, train_command
from tests.helpers.training_runs import read_metrics as metrics_of

__all__ = [
    "PHOTOS",
    "PHOTO_SPLITS",
    "ROOT",
    "WORDS",
    "FakeEndpoint",
    "at",
    "blocks",
    "eval_command",
    "eventually",
    "installed",
    "metrics_of",
    "run_module_in_process",
    "running_server",
    "train_command",
    "write_split",
    "write_tiny_bundle",
]
