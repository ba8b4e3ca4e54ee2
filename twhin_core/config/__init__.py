"""The one YAML that drives a run, typed: a module a section. `file.load` reads it.

The sections `runtime`, `training`, `model`, `train_data` and `validation_data` are the schema of the reference
implementation; `prepare`, `test_data`, `evaluation`, `export` and the fields marked "(ours)" are added beside it.
"""

from twhin_core.config.config import Config as Config
from twhin_core.config.data import EdgeData as EdgeData
from twhin_core.config.data import TrainData as TrainData
from twhin_core.config.evaluation import Evaluation as Evaluation
from twhin_core.config.evaluation import Gate as Gate
from twhin_core.config.model import Model as Model
from twhin_core.config.model import Regularization as Regularization
from twhin_core.config.model import Relation as Relation
from twhin_core.config.model import Table as Table
from twhin_core.config.training import EarlyStopping as EarlyStopping
