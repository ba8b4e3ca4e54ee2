"""The schema of a run's YAML file, one module per section. `file.load` reads it.

`runtime`, `training`, `model`, `train_data` and `validation_data` follow the reference implementation; `prepare`,
`test_data`, `evaluation`, `export` and the fields marked "(ours)" extend it.
"""

from twhin_core.config.config import Config as Config
from twhin_core.config.data import EdgeData as EdgeData
from twhin_core.config.data import TrainData as TrainData
from twhin_core.config.evaluation import Evaluation as Evaluation
from twhin_core.config.evaluation import Gate as Gate
from twhin_core.config.model import Model as Model
from twhin_core.config.model import Regularization as Regularization
from twhin_core.config.relation import Relation as Relation
from twhin_core.config.tables import Table as Table
from twhin_core.config.training import EarlyStopping as EarlyStopping
