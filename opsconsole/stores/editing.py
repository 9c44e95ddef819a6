"""Rows of a managed store added, changed and deleted by hand.

A page shows its row until somebody asks to edit it, and only what they changed is written: an odd value in another
column stays as it is. The database's own checks have the last word, and what they say stands above the form.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django import forms
from django.core.exceptions import ValidationError
from django.db import DataError, IntegrityError, InternalError, models, transaction
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from unfold.decorators import action
from unfold.widgets import UnfoldAdminTextInputWidget

from opsconsole.stores.admin import StoreModelAdmin, row_url
from opsconsole.stores.router import store_of
from opsconsole.stores.store import Store


def refusal(error: Exception) -> str:
    """Why the database did not take a row: its own words, without the statement."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[:1] + [line for line in lines[1:] if line.startswith("DETAIL")]
    return _("The database refuses it: %(reason)s") % {"reason": " ".join(said) or type(error).__name__}


def is_managed(model: type[models.Model]) -> bool:
    name = store_of(model)
    return Store(name, name).managed


class ExactField(forms.CharField):
    """Text as it was typed; line ends and NULL stay what they were where nothing else was changed."""

    def __init__(self, *, nullable: bool, **kwargs: Any) -> None:
        super().__init__(strip=False, **kwargs)
        self.nullable = nullable
        self.current: Any = None  # what the row holds

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
    return "" if text is None else str(text).replace("\r\n", "\n")


class ReferenceField(forms.ModelChoiceField):  # type: ignore[type-arg]
    """A key of another table's row. One that dangles already may stay."""

    current: Any = None

    def to_python(self, value: Any) -> Any:
        if value not in self.empty_values and str(value) == str(self.current):
            model: Any = self.queryset.model  # type: ignore[union-attr]
            return model(pk=value)
        return super().to_python(value)


class StoreForm(forms.ModelForm):  # type: ignore[type-arg]
    """Writes what was changed; tries it before it says that it is right."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        exists = not self.instance._state.adding
        for name, form_field in self.fields.items():
            column = self._meta.model._meta.get_field(name)
            stored = getattr(self.instance, column.attname) if exists else None
            if isinstance(form_field, ExactField | ReferenceField):
                form_field.current = stored
            if exists and stored in (None, ""):
                form_field.required = False  # it may stay as it is
            if isinstance(form_field, forms.TypedChoiceField) and stored not in (None, ""):
                choices = list(cast("Any", form_field.choices))
                if stored not in dict(choices):
                    form_field.choices = [*choices, (stored, str(stored))]
            single_line = isinstance(form_field.widget, UnfoldAdminTextInputWidget)
            if single_line and len(_unix(stored).splitlines()) > 1:
                form_field.widget = forms.Textarea(attrs=form_field.widget.attrs)

    def _get_validation_exclusions(self) -> set[str]:
        """What nobody touched is not judged."""
        exclude: set[str] = super()._get_validation_exclusions()  # type: ignore[misc]
        if not self.instance._state.adding:
            exclude |= set(self.fields) - set(self.changed_data)
        return exclude

    def _post_clean(self) -> None:
        super()._post_clean()  # type: ignore[misc]
        if self.errors:
            return
        using = self.instance._state.db or store_of(type(self.instance))
        adding, key = self.instance._state.adding, self.instance.pk
        try:
            with transaction.atomic(using=using):
                self.write(using)
                transaction.set_rollback(True, using=using)
        except (IntegrityError, DataError, InternalError, OverflowError) as error:
            self.add_error(None, ValidationError(refusal(error)))
        finally:
            self.instance._state.adding = adding
            if adding:
                self.instance.pk = key

    def write(self, using: str | None = None) -> None:
        if self.instance._state.adding:
            self.instance.save(force_insert=True, using=using)
        elif self.changed_data:
            self.instance.save(update_fields=self.changed_data, using=using)


class EditableStoreAdmin(StoreModelAdmin):
    """Rows that people with the right may add, change and delete, in a managed store."""

    form = StoreForm
    # Text columns that have a text area; all others have one line.
    documents: ClassVar[tuple[str, ...]] = ()
    actions_detail = ("edit",)

    def __init__(self, model: type[models.Model], admin_site: Any) -> None:
        super().__init__(model, admin_site)
        self.raw_id_fields = [field.name for field in model._meta.fields if isinstance(field, models.ForeignKey)]

    # --- who may ---------------------------------------------------------------------------------------------

    def may(self, request: HttpRequest, verb: str) -> bool:
        meta = self.model._meta
        return is_managed(self.model) and request.user.has_perm(f"{meta.app_label}.{verb}_{meta.model_name}")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return self.may(request, "add")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One row's page is for reading until it is asked for with `?edit=1`."""
        asked = request.method == "POST" or "edit" in request.GET
        return self.may(request, "change") and (obj is None or asked)

    def has_edit_permission(self, request: HttpRequest, object_id: Any = None) -> bool:
        return self.may(request, "change") and "edit" not in request.GET

    @action(description=gettext_lazy("Edit"), url_path="edit", permissions=["edit"], icon="edit")
    def edit(self, request: HttpRequest, object_id: str) -> HttpResponse:
        return HttpResponseRedirect(f"{row_url(self.model._meta.label_lower, object_id)}?edit=1")

    # --- the form --------------------------------------------------------------------------------------------

    def edited(self) -> list[str]:
        return [field.name for field in self.model._meta.concrete_fields if field.editable]

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> list[Any]:
        shown = super().get_fieldsets(request, obj)
        if obj is not None and not self.has_change_permission(request, obj):
            return shown
        generated = isinstance(self.model._meta.pk, models.AutoField | models.BigAutoField)
        fields = [name for name in self.edited() if not (generated and name == self.model._meta.pk.name)]
        return [(None, {"fields": fields})]

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

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        form.write()

    def response_post_save_change(self, request: HttpRequest, obj: Any) -> HttpResponse:
        return HttpResponseRedirect(row_url(self.model._meta.label_lower, obj.pk))
