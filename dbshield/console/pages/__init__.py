"""The pages, in the order of the navigation."""

from dbshield.console.frame import Page
from dbshield.console.pages import now

PAGES: tuple[Page, ...] = (now.PAGE,)
