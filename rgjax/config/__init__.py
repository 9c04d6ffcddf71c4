"""The settings of a run, the methods and their grids."""

from rgjax.config.fields import AUTO as AUTO
from rgjax.config.fields import CUSTOM as CUSTOM
from rgjax.config.fields import CUSTOM_MIN_SIZE as CUSTOM_MIN_SIZE
from rgjax.config.fields import FIELDS as FIELDS
from rgjax.config.fields import MAX_INT32 as MAX_INT32
from rgjax.config.fields import NON_IDENTITY_FIELDS as NON_IDENTITY_FIELDS
from rgjax.config.fields import TRACED as TRACED
from rgjax.config.fields import Field as Field
from rgjax.config.methods import BERT_FINETUNING as BERT_FINETUNING
from rgjax.config.methods import ENCODERS as ENCODERS
from rgjax.config.methods import METHODS as METHODS
from rgjax.config.methods import TEXT_METHODS as TEXT_METHODS
from rgjax.config.methods import VARIANTS as VARIANTS
from rgjax.config.methods import Method as Method
from rgjax.config.methods import Point as Point
from rgjax.config.methods import ablations as ablations
from rgjax.config.methods import binary_sweep as binary_sweep
from rgjax.config.methods import combinations as combinations
from rgjax.config.methods import points as points
from rgjax.config.settings import Config as Config
from rgjax.config.settings import comma_list as comma_list
from rgjax.config.settings import identity as identity
from rgjax.config.settings import method_config as method_config
from rgjax.config.settings import recorded_config as recorded_config
from rgjax.config.settings import validate as validate
from rgjax.config.settings import value_of as value_of
