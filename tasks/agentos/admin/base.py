"""The base class of AgentOS's pages."""

from __future__ import annotations

from opsconsole.console.editing import EditableStoreAdmin
from opsconsole.console.run_admin import WriteByRunMixin
from opsconsole.console.store_import_export import ExchangeStoreMixin


class AgentosAdmin(WriteByRunMixin, ExchangeStoreMixin, EditableStoreAdmin):
    """A table that operators may edit in a managed store."""
