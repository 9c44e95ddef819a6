"""Import and export of the tables of a store, with exact values.

An import first writes the file in a transaction that is rolled back, to report what the database rejects by row.
A planned run then writes the columns that change, in rows that have not changed since.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import DatabaseError, connections, models, transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from import_export import fields, resources, widgets
from import_export.admin import ExportMixin, ImportMixin
from import_export.instance_loaders import BaseInstanceLoader
from import_export.results import Error, Result, RowResult
from unfold.contrib.import_export.forms import ImportForm, SelectableFieldsExportForm

from opsconsole.console.editing import RowEdit, check_constraints, plan_writes, raw_values, try_save
from opsconsole.console.file_formats import CSV, JSON, MISSING, NULL, XLSX, Rounded, Unreadable
from opsconsole.console.workbook import MAX_BYTES
from opsconsole.formatting import format_number, truncate
from opsconsole.stores import preflight
from opsconsole.stores.preflight import Target
from opsconsole.stores.router import store_of
from opsconsole.stores.rows import RowsChanged, Write, is_bigint, plain_key
from opsconsole.stores.store import Store, StoreUnavailable, text_of

MAX_EXPORTED = 100_000
PREVIEWED = 100

# --- widgets ----------------------------------------------------------------------------------------


class TextWidget(widgets.Widget):  # type: ignore[misc]
    """A text column, in which NULL and empty text differ."""

    takes_rounded = False

    def __init__(self, column: Any) -> None:
        super().__init__()
        self.nullable = column.null or column.primary_key

    def clean(self, value: Any, row: Any = None, **kwargs: Any) -> Any:
        if value is NULL or (value is None and self.nullable):
            return None
        if isinstance(value, Rounded) and not self.takes_rounded:
            raise ValueError(
                _("The spreadsheet has rounded the number %(value)s. Enter it as text.")
                % {"value": truncate(value, 40)}
            )
        return self.read("" if value is None else value)

    def read(self, value: Any) -> Any:
        return str(value)

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> Any:
        return value


class IntegerWidget(TextWidget):
    def read(self, value: Any) -> int:
        if isinstance(value, float) and value.is_integer():
            return int(value)  # spreadsheets store integers as floats
        if isinstance(value, int) or re.fullmatch(r"\s*[+-]?\d+\s*", str(value), re.ASCII):
            number = int(value)
            if not is_bigint(number):
                raise ValueError(_("%(value)s is too large for an integer column.") % {"value": truncate(value, 40)})
            return number
        raise ValueError(_("%(value)s is not an integer.") % {"value": truncate(value, 40) or "''"})


class FloatWidget(TextWidget):
    takes_rounded = True

    def read(self, value: Any) -> float:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ValueError(_("%(value)s is not a number.") % {"value": truncate(value, 40) or "''"})
        return number


class BytesWidget(TextWidget):
    """A binary column, as base64."""

    def read(self, value: Any) -> bytes:
        try:
            return base64.b64decode(str(value), validate=True)
        except binascii.Error:
            raise ValueError(_("%(value)s is not valid base64.") % {"value": truncate(value, 40)}) from None

    def render(self, value: Any, obj: Any = None, **kwargs: Any) -> Any:
        return base64.b64encode(bytes(value)).decode() if isinstance(value, bytes | memoryview) else value


def _field(column: Any) -> fields.Field:
    kinds = (
        (models.BinaryField, BytesWidget),
        (models.FloatField, FloatWidget),
        (models.IntegerField, IntegerWidget),  # AutoField among them
    )
    widget = next((kind for field, kind in kinds if isinstance(column, field)), TextWidget)
    return fields.Field(attribute=column.attname, column_name=column.column, widget=widget(column))


class PrefetchedRows(BaseInstanceLoader):  # type: ignore[misc]
    """The rows whose keys are in the file, read in batches before the import."""

    def __init__(self, resource: Any, dataset: Any = None) -> None:
        super().__init__(resource, dataset)
        (name,) = resource.get_import_id_fields()
        self.key = resource.fields[name]
        keys = [self._key(value) for value in dataset[self.key.column_name]] if self._names_keys() else []
        self.rows = resource._meta.model._default_manager.in_bulk({key for key in keys if key is not None})

    def get_instance(self, row: Any) -> Any:
        return self.rows.get(self._key(row[self.key.column_name]))

    def _names_keys(self) -> bool:
        return self.key.column_name in (self.dataset.headers or ())

    def _key(self, value: Any) -> Any:
        try:
            return self.key.widget.clean(value)
        except ValueError:
            return None  # import_row reports it with the row number


class StoreResource(resources.ModelResource):  # type: ignore[misc]
    """All columns of one table. `resource_of` creates a subclass for each model."""

    fields: Any

    def __init__(self, columns: Iterable[str] | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if columns is not None:
            existing = set(columns)
            self.fields = {name: field for name, field in self.fields.items() if field.column_name in existing}
        self.rows: list[RowEdit] = []  # what the run will write

    # --- export -------------------------------------------------------------------------------------------------

    def before_export(self, queryset: QuerySet[Any], **kwargs: Any) -> None:
        if queryset[: MAX_EXPORTED + 1].count() > MAX_EXPORTED:
            raise ValueError(
                _("The list has more than %(count)s rows. Filter it, or use the database client.")
                % {"count": format_number(MAX_EXPORTED)}
            )

    def after_export(self, queryset: QuerySet[Any], dataset: Any, **kwargs: Any) -> None:
        dataset.never_null = {field.column_name for field in self.fields.values() if not field.widget.nullable}

    # --- import --------------------------------------------------------------------------------------------------

    @cached_property
    def columns(self) -> dict[str, Any]:
        return {field.attname: field for field in self._meta.model._meta.concrete_fields}

    def _check_import_id_fields(self, headers: Any) -> None:
        """Accept a file without keys if the database generates them."""
        if not isinstance(self._meta.model._meta.pk, models.AutoField | models.BigAutoField):
            super()._check_import_id_fields(headers)

    def before_import(self, dataset: Any, **kwargs: Any) -> None:
        known = {field.column_name for field in self.fields.values()}
        if unknown := [header for header in dataset.headers if header not in known]:
            raise ValidationError(
                ngettext("%(table)s has no column %(columns)s.", "%(table)s has no columns %(columns)s.", len(unknown))
                % {"table": self._meta.model._meta.db_table, "columns": ", ".join(unknown)}
            )
        self._require_each_key_once(dataset)
        self._require_exact_writes([str(header) for header in dataset.headers])

    def _require_each_key_once(self, dataset: Any) -> None:
        """Refuse a file that contains a row twice."""
        key = self.fields[self._meta.import_id_fields[0]]
        seen: dict[Any, int] = {}
        for number, value in enumerate(dataset[key.column_name] if key.column_name in dataset.headers else (), 1):
            try:
                cleaned = None if value is MISSING else key.widget.clean(value)
            except ValueError:
                continue  # import_row reports it with the row number
            if cleaned is not None and (first := seen.setdefault(cleaned, number)) != number:
                raise ValidationError(
                    _("Rows %(first)s and %(second)s have the same key %(key)s. Keep one of them.")
                    % {"first": format_number(first), "second": format_number(number), "key": truncate(cleaned, 80)}
                )

    def _require_exact_writes(self, columns: list[str]) -> None:
        """Refuse a table to which a run cannot write exact values."""
        table, key = self._meta.model._meta.db_table, self._meta.model._meta.pk.column
        changed = tuple(name for name in columns if name != key)
        targets = [Target("update", table, changed), Target("insert", table, tuple(columns))]
        try:
            preflight.examine(self.store, targets, undoable=False)
            preflight.require_privileges(self.store, [(table, name) for name in columns], targets)
        except StoreUnavailable as error:
            raise ValidationError(str(error)) from error

    @cached_property
    def store(self) -> Store:
        return Store(self.get_db_connection_name(), store_of(self._meta.model))

    def after_import(self, dataset: Any, result: Any, **kwargs: Any) -> None:
        """Check the deferred constraints, which the database would check at commit."""
        super().after_import(dataset, result, **kwargs)
        check_constraints(self.store)

    def writes(self, result: Result) -> list[Write]:
        """Return the writes of the planned run, including unchanged rows.

        Raise RowsChanged if a column would alter a value.
        """
        key = self._meta.model._meta.pk.column
        same = [plain_key(row.object_id) for row in result.rows if row.import_type == RowResult.IMPORT_TYPE_SKIP]
        unchanged = [RowEdit(one, (key,), self.store.normalize((one,)) or (), False) for one in same]
        return plan_writes(self.store, self._meta.model._meta.db_table, [*self.rows, *unchanged])

    def before_import_row(self, row: dict[str, Any], **kwargs: Any) -> None:
        for name in [name for name, value in row.items() if value is MISSING]:
            del row[name]

    def get_instance(self, instance_loader: Any, row: dict[str, Any]) -> Any:
        key = self.fields[self._meta.import_id_fields[0]].column_name
        return instance_loader.get_instance(row) if key in row else None

    def after_init_instance(self, instance: Any, new: bool, row: Any, **kwargs: Any) -> None:
        self.before = {} if new else {name: getattr(instance, name) for name in self.columns}
        self.given = set(row)

    def validate_instance(
        self, instance: Any, import_validation_errors: Any = None, validate_unique: bool = True
    ) -> None:
        """Require known choices in new values. The database validates the rest."""
        errors = dict(import_validation_errors or {})
        for name in self._changed(instance):
            column, value = self.columns[name], getattr(instance, name)
            choices = dict(column.flatchoices)
            if choices and value is not None and value not in choices:
                known = ", ".join(map(str, choices))
                text = _("%(value)s is not a known value. Use one of %(known)s.")
                errors[name] = ValidationError(text % {"value": truncate(value, 40) or "''", "known": known})
        for column in self.columns.values() if not self.before else ():
            optional = column.null or column.has_default() or isinstance(column, models.AutoField | models.BigAutoField)
            absent = column.column not in self.given and not column.blank
            if not optional and (absent or (column.primary_key and not getattr(instance, column.attname))):
                errors.setdefault(column.attname, ValidationError(_("A new row requires a value.")))
        if errors:
            raise ValidationError(errors)

    def do_instance_save(self, instance: Any, is_create: bool) -> None:
        """Write a row within the savepoint that the library creates for it."""
        using = self.get_db_connection_name()
        given_key = instance.pk
        try:
            saved = try_save(instance, using, None if is_create else self._changed(instance))
        except ValidationError as error:
            if missing := self._missing_references(instance, using):
                raise ValidationError(missing) from error
            raise
        if not saved:
            raise ValidationError(self._ignored("UPDATE"))
        self._require_stored(instance, "INSERT" if is_create else "UPDATE")
        table = self.store.tables[self._meta.model._meta.db_table]
        changed = set(self._changed(instance))
        written = [
            column
            for name, column in self.columns.items()
            if column.column in table
            and (name in changed or (column.primary_key and is_create and given_key is not None))
        ]
        values = raw_values(self.store, instance, written)
        key = None if given_key is None else plain_key(given_key)
        self.rows.append(RowEdit(key, tuple(column.column for column in written), values, is_create))

    def _require_stored(self, instance: Any, event: str) -> None:
        """Refuse a row that a trigger has altered or ignored."""
        table = self.store.tables[self._meta.model._meta.db_table]
        names = [name for name in self._changed(instance) if self.columns[name].column in self.given]
        if not names or not self.store.triggers(table.name, event):
            return
        rows = self._meta.model._default_manager.using(self.store.alias).filter(pk=instance.pk)
        stored = rows.values(*names).first()
        if stored is None:
            raise ValidationError(self._ignored(event))
        for name, value in stored.items():
            column = self.columns[name].column
            if table[column].base != "jsonb" and text_of(value) != text_of(getattr(instance, name)):
                values = {"table": table.name, "column": column, "cause": self._triggers(event)}
                raise ValidationError(
                    _("The value that %(table)s stored in %(column)s differs from the file. Cause: %(cause)s.") % values
                )

    def _triggers(self, event: str) -> str:
        table = self._meta.model._meta.db_table
        names = [one.name for one in self.store.triggers(table, event)]
        return _("trigger %(names)s on %(table)s") % {"names": ", ".join(names), "table": table}

    def _ignored(self, event: str) -> str:
        return _("The database ignored the write. Cause: %(cause)s.") % {"cause": self._triggers(event)}

    def _changed(self, instance: Any) -> list[str]:
        return [
            name
            for name, column in self.columns.items()
            if (name not in self.before or self.before[name] != getattr(instance, name)) and not column.primary_key
        ]

    def _missing_references(self, instance: Any, using: str) -> dict[str, str]:
        """Return a message for each missing referenced row. PostgreSQL names it in its own error; SQLite does not."""
        if connections[using].vendor != "sqlite":
            return {}
        transaction.set_rollback(False, using=using)  # allow queries before the savepoint is rolled back
        missing = {}
        for column in self.columns.values():
            value = getattr(instance, column.attname)
            if column.remote_field and value is not None:
                found = column.remote_field.model._default_manager.using(using).filter(pk=value).exists()
                if not found:
                    values = {"table": column.remote_field.model._meta.verbose_name, "key": truncate(value, 80)}
                    missing[column.attname] = _("The %(table)s %(key)s does not exist. Create it first.") % values
        transaction.set_rollback(True, using=using)
        return missing


def resource_of(model: type[models.Model]) -> type[StoreResource]:
    attributes: dict[str, Any] = {field.name: _field(field) for field in model._meta.concrete_fields}
    assert model._meta.pk is not None  # noqa: S101
    attributes["Meta"] = type(
        "Meta",
        (),
        {
            "model": model,
            "name": str(model._meta.verbose_name_plural),
            "import_id_fields": [model._meta.pk.name],
            "instance_loader_class": PrefetchedRows,
            "skip_unchanged": True,
            "report_skipped": True,
            "skip_html_diff": True,  # the plan page shows the changes
            "use_transactions": True,
        },
    )
    metaclass: Any = type(StoreResource)
    resource: type[StoreResource] = metaclass(f"{model.__name__}Resource", (StoreResource,), attributes)
    return resource


# --- admin mixins -----------------------------------------------------------------------------------------


class ExportStoreMixin(ExportMixin):  # type: ignore[misc]
    """Export of the rows of a list."""

    export_form_class = SelectableFieldsExportForm
    formats = (CSV, XLSX, JSON)

    def __init__(self, model: Any, admin_site: Any) -> None:
        super().__init__(model, admin_site)
        self.resource_classes = [resource_of(model)]

    def has_export_permission(self, request: HttpRequest) -> bool:
        return bool(self.has_view_permission(request))

    def get_export_resource_kwargs(self, request: HttpRequest, **kwargs: Any) -> dict[str, Any]:
        return {"columns": self.columns(request)}

    def export_action(self, request: HttpRequest) -> HttpResponse:
        try:
            response: HttpResponse = super().export_action(request)
            return response.render() if isinstance(response, TemplateResponse) else response
        except (StoreUnavailable, DatabaseError) as error:
            return self.store_error_page(request, error)  # type: ignore[no-any-return]


class StoreImportForm(ImportForm):  # type: ignore[misc]
    def clean_import_file(self) -> Any:
        file = self.cleaned_data["import_file"]
        if file.size > MAX_BYTES:
            limit = format_number(MAX_BYTES >> 20)
            raise ValidationError(_("The file is larger than %(limit)s MiB. Split it.") % {"limit": limit})
        return file


class ExchangeStoreMixin(ImportMixin, ExportStoreMixin):  # type: ignore[misc]
    """Export, and import into a managed store by a planned run."""

    import_export_change_list_template = "admin/import_export/change_list_import_export.html"
    import_template_name = "console/import.html"
    import_form_class = StoreImportForm
    skip_import_confirm = True  # the user confirms the plan instead

    def has_import_permission(self, request: HttpRequest) -> bool:
        return bool(self.may(request, "add") and self.may(request, "change"))

    def get_urls(self) -> list[Any]:
        """Return the URLs without the confirmation step of the library, which would write without a run."""
        return [one for one in super().get_urls() if not str(getattr(one, "name", "")).endswith("_process_import")]

    def plan_import(self, request: HttpRequest, writes: Sequence[Write], file_name: str) -> HttpResponse:
        """Plan a run that writes the rows, and redirect to the plan."""
        raise NotImplementedError

    def add_data_read_fail_error_to_form(self, form: Any, e: Exception) -> None:
        if isinstance(e, Unreadable):
            form.add_error("import_file", str(e))
        else:
            super().add_data_read_fail_error_to_form(form, e)

    def import_action(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
        if not self.has_import_permission(request):
            raise PermissionDenied
        try:
            response: Any = super().import_action(request, **kwargs)
            if isinstance(response, TemplateResponse) and response.context_data is not None:
                result = response.context_data.get("result")
                response.context_data["columns"] = ", ".join(field.column for field in self.model._meta.concrete_fields)
                response.context_data["preview"] = _preview(result) if result is not None else None
            return response.render() if isinstance(response, TemplateResponse) else response
        except (StoreUnavailable, DatabaseError) as error:
            return self.store_error_page(request, error)  # type: ignore[no-any-return]

    def process_dataset(self, dataset: Any, form: Any, request: HttpRequest, **kwargs: Any) -> Result:
        """Import the file and roll it back."""
        if not dataset:
            return _refused(_("The file does not contain rows. Add at least one."))
        resource = self.choose_import_resource_class(form, request)()
        result: Result = resource.import_data(dataset, dry_run=True, rollback_on_validation_errors=True)
        if not problems_of(result):
            try:
                result.writes = resource.writes(result)
            except RowsChanged as error:
                return _refused(*map(str, error.refused.values()))
            result.file_name = kwargs["file_name"]
        return result

    def process_result(self, result: Result, request: HttpRequest) -> HttpResponse:
        if all(old == new for write in result.writes for _key, old, new in write.rows):
            messages.info(request, _outcome(result) + " " + _("There are no changes to import."))
            return HttpResponseRedirect(
                reverse(f"admin:{self.model._meta.app_label}_{self.model._meta.model_name}_import")
            )
        return self.plan_import(request, result.writes, result.file_name)


def _refused(*sentences: str) -> Result:
    result = Result()
    for sentence in sentences:
        result.append_base_error(Error(error=ValidationError(sentence)))
    return result


def problems_of(result: Any) -> list[tuple[str, str]]:
    """Return the place and the message of each error of an import."""
    found = [("", _message(error.error)) for error in result.base_errors]
    for row in result.error_rows:
        found += [(_row(row.number), _message(error.error)) for error in row.errors]
    for row in result.invalid_rows:
        for column, texts in row.error_dict.items():
            where = _row(row.number) if column == "__all__" else f"{_row(row.number)}, {column}:"
            found += [(where, text) for text in texts]
    return found


def _row(number: int) -> str:
    return _("Row %(row)s") % {"row": format_number(number)}


def _message(error: Exception) -> str:
    return " ".join(error.messages) if isinstance(error, ValidationError) else str(error)


def _outcome(result: Any) -> str:
    return _("%(new)s new, %(updated)s changed, %(skipped)s unchanged.") % {
        "new": format_number(result.totals[RowResult.IMPORT_TYPE_NEW]),
        "updated": format_number(result.totals[RowResult.IMPORT_TYPE_UPDATE]),
        "skipped": format_number(result.totals[RowResult.IMPORT_TYPE_SKIP]),
    }


def _preview(result: Any) -> dict[str, Any]:
    """Return the errors that the import page lists."""
    problems = problems_of(result)
    return {
        "problems": problems[:PREVIEWED],
        "more": max(len(problems) - PREVIEWED, 0),
        "sentence": ngettext(
            "The file has %(count)s problem. Correct it and upload the file again.",
            "The file has %(count)s problems. Correct them and upload the file again.",
            len(problems),
        )
        % {"count": format_number(len(problems))},
    }
