"""The manual: pages of Markdown in this folder, in the order in which to read them."""

from .pages import TOPICS, Page, read_page

__all__ = ["TOPICS", "Page", "read_page"]
