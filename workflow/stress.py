"""What `make stress` tries unless METHOD= names another: peers that need no tuning."""

from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression

from dfdlib.stress import flat

methods = {
    "logistic regression": flat(LogisticRegression(max_iter=1000)),
    "gradient boosting": flat(HistGradientBoostingClassifier()),
}
