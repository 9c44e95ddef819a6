"""Forms that add and change rows of a managed store by a run.

The page of a row is read-only until a user opens it for editing. Only changed columns are written, so an invalid value
in another column stays. The form writes the row and rolls it back to show the errors of the database.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple, cast

from django import forms
from django.core.exceptions import ValidationError
from django.db import DatabaseError, DataError, IntegrityError, InternalError, models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from opsconsole.console.store_admin import StoreModelAdmin, row_url
from opsconsole.formatting import truncate
from opsconsole.stores import rows
from opsconsole.stores.errors import ErrorKind, classify, sqlstate
from opsconsole.stores.router import store_of
from opsconsole.stores.rows import Key, RowsChanged, Values, Write
from opsconsole.stores.store import Store, StoreUnavailable


def database_message(error: Exception) -> str:
    """Return the message of a database error without the statement."""
    diagnostic: Any = getattr(error.__cause__, "diag", None)  # of psycopg
    parts = (diagnostic.message_primary, diagnostic.message_detail) if diagnostic is not None else ()
    reason = " ".join(filter(None, parts)) or str(error) or type(error).__name__
    return _("The database rejected the row: %(reason)s") % {"reason": reason}


def try_save(instance: models.Model, using: str, fields: Sequence[str] | None = None) -> bool:
    """Insert a row, or update fields of it, in the current transaction. Return False if a trigger ignored the UPDATE.

    Raise ValidationError with the message of the database.
    """
    try:
        instance.save(force_insert=fields is None, update_fields=fields, using=using)
    except (IntegrityError, DataError, InternalError, OverflowError, ValueError) as error:
        raise ValidationError(database_message(error)) from error
    except DatabaseError as error:
        if classify(error) != ErrorKind.PERMANENT or sqlstate(error) is not None:
            raise
        return False  # Django raises it if the UPDATE matched no row
    return True


def check_constraints(store: Store) -> None:
    """Check the deferred constraints now. Raise ValidationError with the message of the database."""
    try:
        rows.check_deferred(store)
    except (IntegrityError, DataError, InternalError) as error:
        raise ValidationError(database_message(error)) from error


def is_managed(model: type[models.Model]) -> bool:
    return Store.current(store_of(model)).managed


def raw_values(store: Store, instance: models.Model, columns: Sequence[Any]) -> Values:
    """Return the values of an instance as a run writes them."""

    def raw(column: Any) -> Any:
        value = getattr(instance, column.attname)
        if isinstance(value, bytes | memoryview):
            return bytes(value)
        prepared = column.get_db_prep_save(value, store.connection)
        return int(prepared) if isinstance(prepared, bool) and store.vendor == "sqlite" else prepared

    return store.normalize(tuple(map(raw, columns))) or ()


class SaveRefused(Exception):
    """A refusal to write a valid form. The message contains the reason and the remedy."""


class RowEdit(NamedTuple):
    """The new values of a row. A new row may come without a key."""

    key: Key | None
    columns: tuple[str, ...]
    values: Values
    new: bool


def plan_writes(store: Store, table: str, edits: Sequence[RowEdit]) -> list[Write]:
    """Return the writes of a run with the current values. Raise RowsChanged if a column would alter a value."""
    (name,) = store.key_columns(table)
    known = {row.key for row in edits if row.key is not None}
    new_keys = iter(rows.new_keys(store, table, sum(row.key is None for row in edits), known))
    groups: dict[tuple[str, ...], list[Key]] = {}
    for row in edits:
        if not row.new and row.key is not None:
            groups.setdefault(row.columns, []).append(row.key)
    stored = {columns: rows.read(store, table, columns, keys) for columns, keys in groups.items()}
    writes: list[Write] = []
    for row in edits:
        if row.key is None:
            key = next(new_keys)
            row = RowEdit(key, (name, *row.columns), (key, *row.values), True)
        deleted = (None,) * len(row.columns)
        old = None if row.new else stored[row.columns].get(row.key, deleted)  # type: ignore[arg-type]
        if not writes or writes[-1].columns != row.columns or (writes[-1].kind == "insert") != row.new:
            writes.append(Write(table, row.columns, []))
        writes[-1].rows.append((row.key, old, row.values))  # type: ignore[arg-type]
    return [rows.normalized(store, write) for write in writes]


class ExactField(forms.CharField):
    """A text field without stripping. An unchanged text keeps its line ends, and an unchanged NULL stays NULL."""

    def __init__(self, *, nullable: bool, **kwargs: Any) -> None:
        super().__init__(strip=False, **kwargs)
        self.nullable = nullable
        self.current: Any = None  # the stored value

    def clean(self, value: Any) -> Any:
        text = super().clean(value)
        if _unix(text) == _unix(self.current):
            return self.current
        if not text:
            return None if self.nullable else ""
        return text if "\r\n" in str(self.current or "") else _unix(text)

    def has_changed(self, initial: Any, data: Any) -> bool:
        return _unix(initial) != _unix(data)


def _unix(text: Any) -> str:
    """Return a text with line feeds only: browsers change line ends."""
    return "" if text is None else str(text).replace("\r\n", "\n").replace("\r", "\n")


class ReferenceField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A foreign key. An unchanged value may refer to a missing row."""

    current: Any = None

    def to_python(self, value: Any) -> Any:
        if value not in self.empty_values and str(value) == str(self.current):
            model: Any = self.queryset.model  # type: ignore[union-attr]
            return model(pk=value)
        return super().to_python(value)


def _digest(field: forms.Field, value: Any) -> str:
    """Return a digest of a value as its widget renders it."""
    text = value if isinstance(value, bool) else field.widget.format_value(value)
    return hashlib.sha256(_unix(text).encode(errors="surrogatepass")).hexdigest()[:16]


class StoreForm(forms.ModelForm):  # type: ignore[type-arg]
    """The edit form of a row. It validates by a write that is rolled back."""

    opened = forms.CharField(required=False, widget=forms.HiddenInput)  # digests of the shown values
    refusal = ""  # why the run refused the valid form

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        exists = not self.instance._state.adding
        for name, form_field in self._columns():
            column = self._meta.model._meta.get_field(name)
            stored = getattr(self.instance, column.attname) if exists else None
            if isinstance(form_field, ExactField | ReferenceField):
                form_field.current = stored
            if exists and stored in (None, ""):
                form_field.required = False  # an unchanged empty value is valid
            if isinstance(form_field, forms.TypedChoiceField) and stored not in (None, ""):
                choices = list(cast("Any", form_field.choices))
                if stored not in dict(choices):
                    form_field.choices = [*choices, (stored, str(stored))]
            single_line = isinstance(form_field.widget, UnfoldAdminTextInputWidget)
            if single_line and "\n" in _unix(stored):
                form_field.widget = forms.Textarea(attrs=form_field.widget.attrs)
            if isinstance(form_field.widget, forms.Textarea):
                # The theme's template drops a leading empty line.
                form_field.widget.template_name = forms.Textarea.template_name
        if exists:
            self.initial["opened"] = json.dumps(self._stamps(dict(self.initial)))

    def _columns(self) -> Iterator[tuple[str, forms.Field]]:
        return ((name, form_field) for name, form_field in self.fields.items() if name != "opened")

    def _stamps(self, values: dict[str, Any]) -> dict[str, str]:
        return {name: _digest(field, field.prepare_value(values.get(name))) for name, field in self._columns()}

    # --- changed fields ---------------------------------------------------------------------------

    @cached_property
    def _opened(self) -> dict[str, Any]:
        try:
            opened = json.loads(self.data.get(self.add_prefix("opened"), ""))
        except ValueError:
            return {}
        return opened if isinstance(opened, dict) else {}

    @cached_property
    def changed_data(self) -> list[str]:
        """Return the fields that the user has changed, without concurrent changes by others."""
        changed = []
        for name, field in self._columns():
            posted = field.widget.value_from_datadict(self.data, self.files, self.add_prefix(name))
            if name in self._opened:
                if _digest(field, posted) != self._opened[name]:
                    changed.append(name)
            elif field.has_changed(self[name].initial, posted):
                changed.append(name)
        return changed

    def clean(self) -> dict[str, Any] | None:
        cleaned = super().clean()
        if self.refusal:
            self.add_error(None, ValidationError(self.refusal))
        if not self.instance._state.adding:
            self._require_as_opened()
        return cleaned

    def _require_as_opened(self) -> None:
        """Add an error to each changed field whose stored value changed since the form was opened."""
        columns = [field.column for field in self._written]
        self.stored = rows.read(self.store, self._table, columns, [self._key]).get(self._key) if columns else ()
        now = type(self.instance)._base_manager.using(self.store.alias).filter(pk=self.instance.pk).first()
        if now is None or self.stored is None:
            self.add_error(None, ValidationError(_("This row has been deleted since the form was opened.")))
            return
        values = forms.model_to_dict(now, [name for name, _field in self._columns()])
        stamps = self._stamps(values)
        moved = [name for name in self.changed_data if self._opened.get(name, stamps[name]) != stamps[name]]
        for name in moved:
            self.add_error(
                name,
                ValidationError(
                    _("This value has changed to %(value)s since the form was opened. Save again to replace it.")
                    % {"value": truncate(values[name], 200) if values[name] not in (None, "") else "NULL"}
                ),
            )
        if moved:  # the user has seen the new values when they save again
            data = cast("QueryDict", self.data).copy()
            data[self.add_prefix("opened")] = json.dumps(self._opened | {name: stamps[name] for name in moved})
            self.data = data

    def _get_validation_exclusions(self) -> set[str]:
        """Exclude unchanged fields from validation."""
        exclude: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        if not self.instance._state.adding:
            exclude |= set(self.fields) - set(self.changed_data)
        return exclude

    # --- writes ---------------------------------------------------------------------------------

    @cached_property
    def store(self) -> Store:
        return Store.current(store_of(self._meta.model))

    @property
    def _table(self) -> str:
        return str(self._meta.model._meta.db_table)

    @property
    def _key(self) -> Key:
        return rows.plain_key(self.instance.pk)

    @cached_property
    def _written(self) -> list[Any]:
        """Return the columns to write: the changed ones, or all columns of a new row."""
        adding, table = self.instance._state.adding, self.store.tables[self._table]
        return [
            field
            for field in self._meta.model._meta.concrete_fields
            if (field.column in table if adding else field.name in self.changed_data)
        ]

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors or not self.changed_data:
            return
        using = self.store.alias
        adding, key = self.instance._state.adding, self.instance.pk
        try:
            with transaction.atomic(using=using):
                try_save(self.instance, using, None if adding else self.changed_data)  # the run reports triggers
                check_constraints(self.store)
                transaction.set_rollback(True, using=using)
        except ValidationError as error:
            self.add_error(None, error)
        finally:
            self.instance._state.adding = adding
            if adding:
                self.instance.pk = key

    def writes(self) -> list[Write]:
        """Return the writes of a run, or an empty list if no field has changed. Raise RowsChanged."""
        adding, fields = self.instance._state.adding, self._written
        if not fields:
            return []
        if adding and self.instance.pk is None:
            fields = [field for field in fields if not field.primary_key]
        columns = tuple(field.column for field in fields)
        values = raw_values(self.store, self.instance, fields)
        if adding:
            key = None if self.instance.pk is None else self._key
            return plan_writes(self.store, self._table, [RowEdit(key, columns, values, True)])
        return [rows.normalized(self.store, Write(self._table, columns, [(self._key, self.stored, values)]))]


class EditableStoreAdmin(StoreModelAdmin):
    """Rows of a managed store that permitted users add, change and delete."""

    form = StoreForm
    # Text columns with a text area instead of a single line.
    documents: ClassVar[tuple[str, ...]] = ()
    actions_detail = ("edit",)

    def __init__(self, model: type[models.Model], admin_site: Any) -> None:
        super().__init__(model, admin_site)
        self.raw_id_fields = [field.name for field in model._meta.fields if isinstance(field, models.ForeignKey)]

    # --- permissions ---------------------------------------------------------------------------------------------

    def may(self, request: HttpRequest, verb: str) -> bool:
        """Return whether the user may write rows of this table and start runs."""
        meta = self.model._meta
        permissions = (f"{meta.app_label}.{verb}_{meta.model_name}", "operations.operate_run")
        return is_managed(self.model) and request.user.has_perms(permissions)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "add")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Make the page of a row read-only without `?edit=1`."""
        editing = request.method == "POST" or "edit" in request.GET
        return self.may(request, "change") and (obj is None or editing)

    def has_edit_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.may(request, "change") and "edit" not in request.GET

    @action(description=gettext_lazy("Edit"), url_path="edit", permissions=["edit"], icon="edit")
    def edit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(f"{row_url(self.model._meta.label_lower, object_id)}?edit=1")

    # --- the form --------------------------------------------------------------------------------------------

    def editable_fields(self) -> list[str]:
        return [field.name for field in self.model._meta.concrete_fields if field.editable]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        read_only = super().get_fieldsets(request, obj)
        if obj is not None and not self.has_change_permission(request, obj):
            return read_only
        generated = isinstance(self.model._meta.pk, models.AutoField | models.BigAutoField)
        fields = [name for name in self.editable_fields() if not (generated and name == self.model._meta.pk.name)]
        return [(None, {"fields": fields if obj is None else [*fields, "opened"]})]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        if obj is None:
            return []
        if self.has_change_permission(request, obj):
            return [self.model._meta.pk.name]
        return super().get_readonly_fields(request, obj)

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        if isinstance(db_field, models.ForeignKey):
            kwargs["form_class"] = ReferenceField
        if isinstance(db_field, models.TextField) and not db_field.choices:
            if db_field.name not in self.documents:
                kwargs["widget"] = UnfoldAdminTextInputWidget
            kwargs |= {"form_class": ExactField, "nullable": db_field.null}
        return super().formfield_for_dbfield(db_field, request, **kwargs)

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:
        form: Any = super().get_form(request, obj, change, **kwargs)
        form.refusal = getattr(request, "refusal", "")
        return form

    # --- saving: Django opens a transaction on the store, and the run needs its own ----------------------

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """Write a valid form by a run, and show the form again if the run is refused."""
        request.steps = []  # type: ignore[attr-defined]
        response = super().changeform_view(request, object_id, form_url, extra_context)
        steps: list[Callable[[], Any]] = request.steps  # type: ignore[attr-defined]
        if not steps:
            return response
        try:
            return self._saved(request, *steps)
        except SaveRefused as reason:
            request.refusal = str(reason)  # type: ignore[attr-defined]
        except (StoreUnavailable, DatabaseError) as error:
            return self.store_error_page(request, error)
        return super().changeform_view(request, object_id, form_url, extra_context)

    def _saved(self, request: HttpRequest, save: Callable[[], HttpResponse | None], *steps: Any) -> HttpResponse:
        if (redirect := save()) is not None:
            return redirect
        for step in steps:
            response: HttpResponse = step()
        return response

    def write_by_run(self, request: HttpRequest, writes: Sequence[Write]) -> HttpResponse | None:
        """Write rows by a run. Return a redirect if the run has not written them yet. Raise SaveRefused."""
        raise NotImplementedError

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        def save() -> HttpResponse | None:
            try:
                writes = form.writes()
            except RowsChanged as error:
                raise SaveRefused(" ".join(map(str, error.refused.values()))) from error
            if not writes:
                return None
            obj.pk = obj.pk if change else self.model._meta.pk.to_python(writes[0].rows[0][0])
            return self.write_by_run(request, writes)

        self._later(request, save)

    def log_addition(self, request: HttpRequest, *args: Any) -> None:
        self._later(request, partial(super().log_addition, request, *args))

    def log_change(self, request: HttpRequest, *args: Any) -> None:
        self._later(request, partial(super().log_change, request, *args))

    def response_add(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        return self._later(request, partial(super().response_add, request, *args, **kwargs))

    def response_change(self, request: HttpRequest, *args: Any) -> HttpResponse:
        return self._later(request, partial(super().response_change, request, *args))

    @staticmethod
    def _later(request: HttpRequest, step: Callable[[], Any]) -> HttpResponse:
        request.steps.append(step)  # type: ignore[attr-defined]
        return HttpResponse()

    def response_post_save_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return HttpResponseRedirect(row_url(self.model._meta.label_lower, obj.pk))
