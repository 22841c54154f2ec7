"""The lab: optimizers trained side by side on real data, ranked, drawn and written down.

`compare` is the whole of it; `python -m gradflow compare` is its command line. What it needs beyond JAX
comes with `pip install "gradflow-jax[lab]"`, and is imported only when it is used.
"""

from gradflow.lab._compare import compare as compare
from gradflow.lab._result import Comparison as Comparison
from gradflow.lab._result import Entry as Entry
from gradflow.lab._tasks import Task as Task
