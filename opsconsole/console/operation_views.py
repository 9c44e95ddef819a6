"""Views of operations, plans and runs. Each view checks the user's permission itself."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe
from unfold.widgets import CHECKBOX_CLASSES, INPUT_CLASSES, SELECT_CLASSES

from opsconsole.console.actors import actor_of
from opsconsole.console.approval_page import ApprovalPage, waiting_runs
from opsconsole.console.freeze_page import FreezePage
from opsconsole.console.page_parts import REFUSALS, Described, described
from opsconsole.console.plan_page import PlanPage, drift
from opsconsole.console.run_changes import Changes
from opsconsole.console.run_page import RunPage
from opsconsole.console.run_tabs import RunTabs
from opsconsole.console.store_urls import StoreLink, store_links, urlconf
from opsconsole.engine import lifecycle, planner, queue, registry, stored_plans
from opsconsole.engine.audit_log import Actor
from opsconsole.engine.errors import PlanDrifted
from opsconsole.engine.labels import operation_title
from opsconsole.engine.models import Run, Status
from opsconsole.engine.operation import Operation, Risk
from opsconsole.engine.operations.change_rows import ChangeRows
from opsconsole.engine.operations.undo_run import key_of
from opsconsole.engine.registry import UnknownOperation
from opsconsole.engine.selection import Selection
from opsconsole.stores.platforms import store_title
from opsconsole.stores.router import use
from opsconsole.stores.store import StoreUnavailable

PERMISSIONS = {"approve": "approve_run", "reject": "approve_run", "break-glass": "break_glass"}  # of verbs
MAX_BATCH_SIZE = 100_000
REPLACEABLE = (Status.PLANNED, Status.AWAITING_APPROVAL, Status.REJECTED)  # by a new plan
_ROW_NUMBER = re.compile(r"\d{1,9}", re.ASCII)

View = Callable[..., HttpResponse]


def needs(permission: str) -> Callable[[View], View]:
    """Require the permission `operations.<permission>`. The URL configuration requires the login."""

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if not request.user.has_perm(f"operations.{permission}"):
                raise PermissionDenied
            return view(request, *args, **kwargs)

        return checked

    return decorate


def render_page(request: HttpRequest, template: str, title: str, *, status: int = 200, **context: Any) -> HttpResponse:
    context = {**admin.site.each_context(request), "title": title, **context}
    return render(request, template, context, status=status)


# --- planning ------------------------------------------------------------------------------------------------


def _style_widgets(form: forms.Form) -> forms.Form:
    for field in form.fields.values():
        widget = field.widget
        classes = INPUT_CLASSES
        if isinstance(widget, forms.CheckboxInput):
            classes = CHECKBOX_CLASSES
        elif isinstance(widget, forms.Select):
            classes = SELECT_CLASSES
        widget.attrs["class"] = " ".join(classes)
    return form


def start_plan(
    request: HttpRequest,
    operation_name: str,
    selection: Selection = Selection(),  # noqa: B008  # immutable
    params: dict[str, Any] | None = None,
    note: str = "",
    replaces: Run | None = None,
) -> HttpResponse:
    """Plan an operation and redirect to the page of the plan. A read-only operation is queued without a plan.

    `params` are the form's raw values. Without them the form's initial values are used, and the form is shown if
    they are not valid. `replaces` is the plan that the new one replaces.
    """
    if not request.user.has_perm("operations.operate_run"):
        raise PermissionDenied
    cls = _operation_or_404(operation_name)
    if cls.permission and not request.user.has_perm(cls.permission):
        raise PermissionDenied
    form = _style_widgets(cls.Params(data=_initial_values(cls) if params is None else params))
    if not form.is_valid():
        has_params = params is not None
        shown = form if has_params else _style_widgets(cls.Params())
        return _params_page(request, cls, shown, status=400 if has_params else 200)
    try:
        if getattr(cls, "risk", None) == Risk.READ:
            run = _scan(request, cls, dict(form.cleaned_data))
        else:
            separate = replaces is not None
            run = _plan(request, cls, dict(form.cleaned_data), selection, note, separate=separate)
            if replaces is not None:
                lifecycle.replace(replaces, run, actor_of(request))
    except REFUSALS as error:
        if isinstance(error, StoreUnavailable) and error.error is not None:
            raise  # StoreErrorMiddleware answers it
        if "asked" in request.POST:  # the form keeps what the user has written
            form.add_error("statement" if "statement" in form.fields else None, str(error))
            return _params_page(request, cls, form, status=409)
        return _refused(request, str(cls.title), str(error))
    return redirect("run", run.pk)


def _params_page(request: HttpRequest, cls: type[Operation], form: forms.Form, *, status: int = 200) -> HttpResponse:
    title = str(cls.title)
    return render_page(request, "console/params.html", title, operation=described(cls), form=form, status=status)


def _plan(
    request: HttpRequest,
    cls: type[Operation],
    params: dict[str, Any],
    selection: Selection,
    note: str,
    *,
    separate: bool = False,
) -> Run:
    operation = planner.operation_on(cls, stored_plans.store_for(cls, params), params)
    return queue.plan(operation, selection, actor_of(request), note=note, separate=separate)


def plan_now(request: HttpRequest, operation_name: str, params: dict[str, Any]) -> tuple[Run, bool]:
    """Plan a few rows. Return the plan, and whether its confirmation requires more than a click. Raises REFUSALS."""
    cls = registry.operation(operation_name)
    operation = planner.operation_on(cls, stored_plans.store_for(cls, params), params)
    asks_more = lifecycle.asks_more(operation)
    return queue.plan(operation, Selection(), actor_of(request), separate=not asks_more), asks_more


def _scan(request: HttpRequest, cls: type[Operation], params: dict[str, Any]) -> Run:
    planned = planner.plan(planner.operation_on(cls, stored_plans.store_for(cls, params), params))
    unfinished = stored_plans.same_command(planned.operation, planned.selection)
    return unfinished or queue.confirm(lifecycle.create_run(planned, actor_of(request)), actor_of(request))


def _operation_or_404(name: str) -> type[Operation]:
    try:
        return registry.operation(name)
    except UnknownOperation as error:
        raise Http404(str(error)) from None


def _refused(request: HttpRequest, title: str, sentence: str) -> HttpResponse:
    return render_page(request, "console/refused.html", title, sentence=sentence, status=409)


@require_POST
@needs("operate_run")
def plan(request: HttpRequest, name: str) -> HttpResponse:
    """Plan an operation for all rows in scope, with the parameters from its form."""
    has_params = "asked" in request.POST  # else the form was not shown yet
    return start_plan(request, name, params=_posted_values(_operation_or_404(name), request) if has_params else None)


@require_safe
@needs("operate_run")
@needs("change_by_statement")
def statement(request: HttpRequest) -> HttpResponse:
    """Show the form of a statement. `?store=` chooses the store."""
    return _params_page(request, ChangeRows, _style_widgets(ChangeRows.Params(initial=request.GET.dict())))


@require_POST
@needs("operate_run")
def replan(request: HttpRequest, pk: int) -> HttpResponse:
    """Replace a plan by a new one, with other parameters or for the current state of the store.

    A run that was not approved is planned again in the same way.
    """
    run = get_object_or_404(Run, pk=pk)
    newer = run.replacements.order_by("-pk").first()
    if newer is not None or run.status not in REPLACEABLE:  # a second click, or another user
        return redirect("run", (newer or run).pk)
    cls = _operation_or_404(run.operation)
    has_params = "asked" in request.POST and _has_editable_params(run, cls)
    params = _posted_values(cls, request) if has_params else run.params
    with use(run.store):
        return start_plan(request, run.operation, Selection(**run.selection), params, note=run.note, replaces=run)


def _has_editable_params(run: Run, cls: type[Operation] | Operation) -> bool:
    """Return whether the user can change the parameters. An undo, a retry and a form set their own."""
    return not run.parent_id and not all(field.widget.is_hidden for field in cls.Params.base_fields.values())


def _initial_values(cls: type[Operation]) -> dict[str, Any]:
    return {name: field.initial for name, field in cls.Params().fields.items()}


def _posted_values(cls: type[Operation], request: HttpRequest) -> dict[str, Any]:
    """Return the raw values of the form. A name with several values keeps them all."""
    form = cls.Params(data=request.POST)
    return {
        name: field.widget.value_from_datadict(request.POST, request.FILES, name) for name, field in form.fields.items()
    }


# --- plans and runs ---------------------------------------------------------------------------------------------


@require_safe
@needs("view_run")
def run_page(request: HttpRequest, pk: int) -> HttpResponse:
    """Show a plan until it is confirmed, and a run afterwards."""
    run = get_object_or_404(Run.objects.select_related("parent"), pk=pk)
    if run.status == Status.PLANNED:
        return _plan_page(request, run)
    if run.status == Status.AWAITING_APPROVAL:
        return _approval_page(request, run)
    page = RunPage(run, request.user)  # type: ignore[arg-type]
    tabs = RunTabs(page, *(request.GET.get(name, "") for name in ("tab", "outcome", "reason")))
    context: dict[str, Any] = {"page": page, "run": run, "tabs": tabs}
    if tabs.current == "changes":
        batch = request.GET.get("batch", "")
        key = request.GET.get("key", "")
        context["changes"] = Changes(run, key=key, batch=int(batch) if _ROW_NUMBER.fullmatch(batch) else None)
    return render_page(request, "console/run.html", _title(run), children=run.children.order_by("pk"), **context)


def _title(run: Run) -> str:
    values = {"run": run.pk, "title": operation_title(run.operation)}
    if run.status == Status.PLANNED:
        return _("Plan %(run)d: %(title)s") % values
    return _("Run %(run)d: %(title)s") % values


def _plan_page(
    request: HttpRequest,
    run: Run,
    *,
    error: str = "",
    typed_error: str = "",
    status: int = 200,
) -> HttpResponse:
    page = PlanPage(run, request.user, request.GET.get("outcome", ""), request.GET.get("reason", ""))
    form = None
    if page.operation is not None and _has_editable_params(run, page.operation):
        form = _style_widgets(page.operation.Params(initial=run.params))
    return render_page(
        request,
        "console/plan.html",
        _title(run),
        status=status,
        page=page,
        run=run,
        form=form,
        error=error,
        drift=drift(run),
        typed=request.POST.get("typed", ""),
        typed_error=typed_error,
        checked=request.POST.getlist("checked"),
        shows_button=not page.obstacles or request.method == "POST",  # a refused form keeps what was typed
        may_operate=page.may_operate,
    )


def _approval_page(
    request: HttpRequest, run: Run, *, verb: str = "", error: str = "", status: int = 200
) -> HttpResponse:
    page = ApprovalPage(run, request.user)
    typed = {verb: request.POST.get("reason", "")} if verb else {}
    return render_page(
        request,
        "console/approval.html",
        _title(run),
        status=status,
        page=page,
        run=run,
        error=error,
        rejection=typed.get("reject"),
        emergency=typed.get("break-glass"),
        may_note=request.user.has_perm("operations.operate_run"),
    )


@require_safe
@needs("view_run")
def approvals(request: HttpRequest) -> HttpResponse:
    """List the runs that wait for approval: first those that this account may decide about."""
    pages = [ApprovalPage(run, request.user) for run in waiting_runs()]
    mine = [page for page in pages if not page.refusal]
    others = [page for page in pages if page.refusal]
    return render_page(request, "console/approvals.html", _("Approvals"), mine=mine, others=others)


@require_safe
@needs("view_run")
def live(request: HttpRequest, pk: int) -> HttpResponse:
    """Render the changing part of a plan's or a run's page, which requests it every two seconds."""
    run = get_object_or_404(Run, pk=pk)
    if run.status == Status.PLANNED:
        counting = PlanPage(run)
        response = render(request, "console/_plan_progress.html", {"page": counting, "run": run})
        over = counting.counted
    else:
        page = RunPage(run, request.user)  # type: ignore[arg-type]
        shown = request.GET.get("state", "")
        context = {"page": page, "run": run, "actions_changed": shown != page.state}
        response = render(request, "console/_run_progress.html", context)
        over = run.ended or shown.startswith(Status.PLANNED)
    if over:
        response["HX-Refresh"] = "true"
    return response


@require_POST
@needs("operate_run")
def confirm(request: HttpRequest, pk: int) -> HttpResponse:
    """Execute a plan. If the data has changed since the plan, show the new plan instead."""
    run = get_object_or_404(Run, pk=pk)
    if run.status != Status.PLANNED:
        if run.status == Status.CANCELLED:
            messages.warning(request, _("This plan was discarded or replaced by a newer plan. Nothing was written."))
        else:
            messages.info(request, _("This plan is already confirmed."))
        return redirect("run", run.pk)
    page, actor = PlanPage(run), actor_of(request)
    _take_answers(run, request, page)
    if page.problem:
        return _plan_page(request, run, error=page.problem, status=409)
    if not page.counted:
        return _plan_page(
            request, run, error=_("The outcomes are not counted yet. Wait until the count is complete."), status=409
        )
    if page.confirmation_phrase and request.POST.get("typed", "").strip() != page.confirmation_phrase:
        return _plan_page(request, run, typed_error=page.type_to_confirm, status=400)
    try:
        if request.POST.get("digest") != run.digest:
            raise PlanDrifted
        with transaction.atomic():
            run.save(update_fields=("note", "fast", "batch_size"))
            queue.confirm(run, actor, request.POST.getlist("checked"))
    except PlanDrifted:
        return _show_new_plan(request, run)
    except REFUSALS as error:
        run.refresh_from_db()
        _take_answers(run, request, page)  # the page keeps what was typed
        return _plan_page(request, run, error=str(error), status=409)
    return redirect("run", run.pk)


def _take_answers(run: Run, request: HttpRequest, page: PlanPage) -> None:
    """Copy the reason and the speed of the confirmation into `run` without saving them."""
    run.note = request.POST.get("note", run.note)[:2000]
    run.fast = "fast" in request.POST
    size = request.POST.get("batch_size", "")
    if _ROW_NUMBER.fullmatch(size) and 1 <= int(size) <= MAX_BATCH_SIZE and not page.fixed_batch:
        run.batch_size = int(size)


def _show_new_plan(request: HttpRequest, old: Run) -> HttpResponse:
    """Replace the plan, and redirect to the new one, which shows how the data has changed."""
    cls = registry.operation(old.operation)
    try:
        params = dict(stored_plans.operation_of(old).params)
        with use(old.store):
            new = _plan(request, cls, params, Selection(**old.selection), old.note, separate=True)
    except REFUSALS as error:
        return _plan_page(request, old, error=str(error), status=409)
    lifecycle.replace(old, new, actor_of(request))
    if drift(new) is None:  # the page of the new plan shows a difference
        messages.warning(request, _("The plan was renewed after its page was made. Nothing was written. Review it."))
    return redirect("run", new.pk)


# --- actions ----------------------------------------------------------------------------------------------------


@require_POST
def act(request: HttpRequest, pk: int, verb: str) -> HttpResponse:
    """Pause, resume, cancel, approve or reject a run, or plan its undo or the retry of its failed rows."""
    if not request.user.has_perm(f"operations.{PERMISSIONS.get(verb, 'operate_run')}"):
        raise PermissionDenied
    run = get_object_or_404(Run, pk=pk)
    if verb == "undo":
        return start_plan(request, "operations.undo_run", params={"run": run.pk})
    if verb == "retry":
        return start_plan(request, "operations.retry_failed_rows", params={"run": run.pk})
    verbs: dict[str, Callable[[Run, Actor], Any]] = {
        "pause": lifecycle.pause,
        "cancel": queue.cancel,
        "resume": queue.resume,
        "approve": queue.approve,
        "reject": partial(lifecycle.reject, reason=request.POST.get("reason", "")),
        "break-glass": partial(queue.break_glass, reason=request.POST.get("reason", "")),
    }
    try:
        verbs[verb](run, actor_of(request))
    except REFUSALS as error:
        run.refresh_from_db()
        if run.status == Status.AWAITING_APPROVAL:  # the page keeps what was typed
            return _approval_page(request, run, verb=verb, error=str(error), status=409)
        messages.warning(request, str(error))
    else:
        if run.request:
            messages.info(request, _("The request is saved. The worker stops after this batch."))
    return redirect("run", run.pk)


@require_POST
@needs("operate_run")
def undo_row(request: HttpRequest, pk: int) -> HttpResponse:
    """Plan the undo of what a run wrote to one row."""
    run = get_object_or_404(Run, pk=pk)
    number, place = request.POST.get("batch", ""), request.POST.get("place", "")
    if not _ROW_NUMBER.fullmatch(number) or not _ROW_NUMBER.fullmatch(place):
        raise Http404
    batch = get_object_or_404(run.batches.defer("before_image"), number=int(number), rows__gt=int(place))
    selection = Selection(keys=[key_of(run, batch.number, int(place))])
    return start_plan(request, "operations.undo_run", selection, {"run": run.pk})


@require_POST
@needs("operate_run")
def note(request: HttpRequest, pk: int) -> HttpResponse:
    """Add a note to a run."""
    run = get_object_or_404(Run, pk=pk)
    try:
        lifecycle.add_note(run, actor_of(request), request.POST.get("text", ""))
    except REFUSALS as error:
        messages.warning(request, str(error))
    return redirect(f"{reverse('run', args=[run.pk])}?tab=report#tabs")


# --- freeze ----------------------------------------------------------------------------------------


@needs("view_run")
def freeze(request: HttpRequest) -> HttpResponse:
    """Freeze or unfreeze all runs."""
    error = ""
    if request.method == "POST":
        if not request.user.has_perm("operations.operate_run"):
            raise PermissionDenied
        reason = request.POST.get("note", "").strip()
        if "unfreeze" in request.POST:
            lifecycle.unfreeze(actor_of(request))
            return redirect("freeze")
        if reason:
            lifecycle.freeze(actor_of(request), reason[:2000])
            return redirect("freeze")
        error = _("The reason is missing. Enter why the runs must stop.")
    return render_page(
        request,
        "console/freeze.html",
        _("Freeze all runs"),
        page=FreezePage(),
        error=error,
        may_operate=request.user.has_perm("operations.operate_run"),
        status=400 if error else 200,
    )


# --- all operations ----------------------------------------------------------------------------------------------


@require_safe
@needs("view_run")
def operations(request: HttpRequest) -> HttpResponse:
    """List all operations with risk, schedule and last run."""
    return _operations(request)


def _operations(request: HttpRequest, *, errors: dict[str, str] | None = None) -> HttpResponse:
    """List the operations whose name, title, description or risk contains every word of `?q=`."""
    text = request.GET.get("q", "").strip()
    schedules = {state.operation.name: state for state in queue.schedules()}
    runs = Run.objects.exclude(status=Status.PLANNED).without_documents().order_by("-pk")
    found = filter(partial(_matches, text.casefold().split()), map(described, registry.operations().values()))
    entries = [
        {
            "operation": operation,
            "schedule": schedules.get(operation.name),
            "last": runs.filter(operation=operation.name).first(),  # one indexed query each
            "error": (errors or {}).get(operation.name, ""),
            "stores": _plan_links(operation.name),
            "scheduled": _scheduled_stores(operation.name),
            "may_plan": request.user.has_perms(registry.operation(operation.name).required_permissions()),
        }
        for operation in sorted(found, key=lambda operation: operation.title)
    ]
    return render_page(
        request,
        "console/operations.html",
        _("Operations"),
        entries=entries,
        text=text,
        may_schedule=request.user.has_perm("operations.change_schedulesetting"),
        status=400 if errors else 200,
    )


def _plan_links(name: str) -> list[StoreLink]:
    """Return the stores in which the operation can be planned if there are several."""
    platform = getattr(registry.operation(name), "store_alias", "")
    return store_links(platform, lambda alias: reverse("plan", urlconf(alias), args=[name]))


def _scheduled_stores(name: str) -> list[tuple[str, str]]:
    """Return the stores among which the schedule of an operation can choose if there are several."""
    aliases = [alias for alias, _values in registry.scheduled_runs(registry.operation(name))]
    return [(alias, store_title(alias)) for alias in aliases] if len(aliases) > 1 else []


def _matches(words: list[str], operation: Described) -> bool:
    searched = f"{operation.name} {operation.title} {operation.description} {operation.risk}".casefold()
    return all(word in searched for word in words)


@require_POST
@needs("change_schedulesetting")
def schedule(request: HttpRequest, name: str) -> HttpResponse:
    """Turn an operation's schedule on or off, or change its time."""
    _operation_or_404(name)
    try:
        queue.switch(
            name,
            on=request.POST.get("on") == "1",
            cron=request.POST.get("cron", "").strip(),
            store=request.POST.get("store", ""),
            actor=actor_of(request),
        )
    except REFUSALS as error:
        return _operations(request, errors={name: str(error)})
    return redirect(f"{reverse('operations')}#{name}")
