"""The pages, in the order of the navigation."""

from dbshield.console.frame import Page
from dbshield.console.pages import agents, approvals, audit, backups, doctor, now, policy

PAGES: tuple[Page, ...] = (now.PAGE, approvals.PAGE, agents.PAGE, audit.PAGE, backups.PAGE, policy.PAGE, doctor.PAGE)
