"""Decisions: class offsets, and a temperature and biases, chosen on validation."""

from rgjax.decision.decision import FILE as FILE
from rgjax.decision.decision import Decision as Decision
from rgjax.decision.decision import fit_decision as fit_decision
from rgjax.decision.decision import read_decision as read_decision
from rgjax.decision.goal import Goal as Goal
from rgjax.decision.goal import read_goal as read_goal
