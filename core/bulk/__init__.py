"""The same verb for many things at once: up to a hundred are answered with a result each, more become an operation.

    register(Resource("topics", label=_("Topics"), rows=Topic.objects.select_related(…), filterset=TopicFilter))
    verb(Bulk("topics", "retire", label=_("Retire"), permission="topics.retire_topic", serializer=ReasonSerializer, run=retire))

`run(actor, thing, values)` calls the service. REST (`api`), the console (`console`) and the operation's worker all come here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from django.db import transaction
from django.db.models import QuerySet
from django.utils.translation import gettext as _
from rest_framework import exceptions, serializers

from core.api.conditional import etag, stale
from core.api.permissions import require
from core.api.problems import to_problem
from core.api.views import validated
from core.audit.services import forgotten_with_it
from core.errors import FieldError, Problem, not_found
from core.operations import kinds
from core.operations import services as operations
from core.operations.models import Operation
from core.request_context import current
from core.retrying import repeated

if TYPE_CHECKING:
    from accounts.models import User

AT_ONCE = 100  # more become an operation
MIN_RATE, MAX_RATE = 0.1, 10_000.0  # items per second of an operation
MAX_ITEMS = 10_000  # named in one body; a selection may have more

Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resource:
    """What verbs are registered for: its name in addresses, its rows (of a queryset with `restrict`), the filters of its list endpoint.

    `lists` names the console's list page (a dotted path), whose filter can be acted on as a whole; `list_url` its route, if that is not
    the room's `…_list`.
    """

    name: str
    label: Any
    rows: Callable[[], QuerySet[Any, Any]]
    filterset: Callable[[], Any]
    lists: str = ""
    list_url: str = ""
    here: str = ""
    key: str = "name"


@dataclass(frozen=True, slots=True)
class Bulk:
    """A verb. `serializer` checks its values; `form` asks for them in the console and `why_not` says beforehand for whom it cannot be done.

    `run_many(actor, things, values)` does it for all with few statements and answers for each, None for done; when it raises, nothing of
    it stays and `run` is asked for each. `many_rows` leaves away what it does not need of the rows.
    """

    resource: str
    action: str
    label: Any
    permission: str
    serializer: type[serializers.Serializer[Any]]
    run: Callable[[User, Any, Values], object]
    run_many: Callable[[User, Sequence[Any], Values], Sequence[Problem | None]] | None = None
    many_rows: Callable[[QuerySet[Any, Any]], QuerySet[Any, Any]] = lambda rows: rows
    why_not: Callable[[User, Any], Any] = lambda _user, _thing: ""
    form: Any = None
    tone: str = ""

    @property
    def kind(self) -> str:
        """The name of the operations that do it."""
        return f"{self.resource}.{self.action}"


@dataclass(frozen=True, slots=True)
class Wanted:
    """One thing to do it to: its name, values of its own besides those for all, and the version that the caller has seen."""

    name: str
    values: Values = field(default_factory=dict)
    if_match: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one item; `problem` is None if it is done."""

    index: int
    name: str
    problem: Problem | None


_resources: dict[str, Resource] = {}
_verbs: dict[str, dict[str, Bulk]] = {}


def register(resource: Resource) -> None:
    """Make a resource known; then its verbs can be registered."""
    _resources[resource.name] = resource
    _verbs.setdefault(resource.name, {})


def verb(bulk: Bulk) -> None:
    """Register a verb, and the kind of operation that does it to many."""
    _verbs[bulk.resource][bulk.action] = bulk

    def perform(actor: User | None, item: kinds.Item, params: kinds.Params) -> None:
        assert actor is not None  # a verb is a person's
        one = Wanted(item.key, item.input.get("values", {}), item.input.get("if_match", ""))
        _do(bulk, actor, _find(bulk, actor, [item.key]), one, {**params["values"], **one.values})

    def perform_many(actor: User | None, items: Sequence[kinds.Item], params: kinds.Params) -> Sequence[Problem | None]:
        assert actor is not None
        return _many(bulk, actor, items, params)

    kinds.register(
        kinds.Kind(
            name=bulk.kind,
            label=bulk.label,
            permission=bulk.permission,
            perform=perform,
            perform_many=perform_many if bulk.run_many else None,
            chunk=500 if bulk.run_many else 50,
            pace=lambda params: params.get("rate"),
        )
    )


def resource_of(name: str) -> Resource:
    """The resource of this name. Problem: not_found."""
    kinds.discover()
    found = _resources.get(name)
    if found is None:
        raise not_found(_("resource"), name)
    return found


def verb_of(resource: str, action: str) -> Bulk:
    """The verb. Problems: not_found (the resource), unknown_action."""
    verbs = _verbs[resource_of(resource).name]
    if action not in verbs:
        detail = _("There is no action “{action}”.").format(action=action[:60])
        hint = _("Known are: {names}.").format(names=", ".join(verbs))
        raise Problem("unknown_action", detail, hint=hint, errors=[FieldError("/action", hint)])
    return verbs[action]


def verbs_of(resource: str) -> list[Bulk]:
    """All verbs of a resource, in their order."""
    kinds.discover()
    return list(_verbs.get(resource, {}).values())


def reachable(bulk: Bulk, user: Any) -> QuerySet[Any, Any]:
    """The things that this person may do it to; the others do not exist for them."""
    rows: Any = resource_of(bulk.resource).rows()
    return rows.restrict(user, bulk.permission)  # type: ignore[no-any-return]


def selected(bulk: Bulk, user: Any, select: Mapping[str, Any]) -> QuerySet[Any, Any]:
    """The things that match the filters of the list endpoint. Problems: unknown_field, invalid."""
    filterset = resource_of(bulk.resource).filterset()
    known = list(filterset.base_filters)
    if unknown := sorted(set(select) - set(known)):
        raise Problem(
            "unknown_field",
            _("Unknown fields: {names}.").format(names=", ".join(unknown)[:400]),
            hint=_("Known are: {names}.").format(names=", ".join(known)),
            errors=[FieldError(f"/select/{name}", _("There is no such field.")) for name in unknown],
        )
    data = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in select.items()}
    if any("\x00" in value or not value for value in data.values()):
        detail = _("A filter is empty, or holds a NUL.")
        raise Problem("invalid", detail, errors=[FieldError("/select", detail)])
    found = filterset(data=data, queryset=reachable(bulk, user))
    if not found.is_valid():
        errors = [FieldError(f"/select/{name}", " ".join(texts)) for name, texts in found.errors.items()]
        raise Problem("invalid", errors[0].detail, errors=errors)
    rows: QuerySet[Any, Any] = found.qs
    return rows


def check(bulk: Bulk, values: Values, pointer: str = "/values") -> dict[str, Any]:
    """The values of a verb, checked. Problems: unknown_field, invalid."""
    try:
        request: Any = SimpleNamespace(data=dict(values))
        return validated(bulk.serializer, request)
    except (Problem, exceptions.ValidationError) as error:
        problem = to_problem(error)
        errors = [FieldError(f"{pointer}{one.pointer}", one.detail) for one in problem.errors]
        raise Problem(problem.code, problem.detail, status=problem.status, hint=problem.hint, errors=errors) from None


@repeated
def run(*, actor: User, bulk: Bulk, items: Sequence[Wanted], values: Values, atomic: bool) -> list[Result]:
    """Do it now, in one transaction; each item in a savepoint, or all or nothing. Problem (atomic): that of the item, named.

    Items are taken in the order of their names, so that two calls for the same things do not wait for each other crosswise.
    """
    require(actor, bulk.permission)
    checked: list[Values | Problem] = []
    known: dict[str, Values] = {}
    for index, item in enumerate(items):
        merged = {**values, **item.values}
        text = json.dumps(merged, sort_keys=True, default=str)
        try:
            if text not in known:
                known[text] = check(bulk, merged, f"/items/{index}" if item.values else "/values")
            checked.append(known[text])
        except Problem as problem:
            if not item.values:
                raise  # wrong for all of them
            checked.append(problem)
    results: dict[int, Problem | None] = {}
    with transaction.atomic():
        found = _find(bulk, actor, [item.name for item in items])
        for index in sorted(range(len(items)), key=lambda i: items[i].name):
            ready = checked[index]
            try:
                if isinstance(ready, Problem):
                    raise ready
                with transaction.atomic(), forgotten_with_it():
                    _apply(bulk, actor, found, items[index], ready)
                results[index] = None
            except Problem as problem:
                if atomic:
                    raise _spoilt(index, items[index].name, problem) from None
                results[index] = problem
    return [Result(index, item.name, results[index]) for index, item in enumerate(items)]


def begin(
    *,
    actor: User,
    bulk: Bulk,
    values: Values,
    items: Iterable[Wanted] | None = None,
    select: QuerySet[Any, Any] | None = None,
    rate: float | None = None,
) -> Operation:
    """Do it as an operation, to `rate` items per second at most. Problems: forbidden, those of the values, too_many_items."""
    check(bulk, values)
    resource = resource_of(bulk.resource)
    reason = str(values.get("reason") or "") or current.get().change_message
    return operations.start(
        actor=actor,
        kind=bulk.kind,
        title=_("{action}: {resource}").format(action=bulk.label, resource=resource.label),
        items=None if items is None else (operations.NewItem(one.name, _input(one)) for one in items),
        select=None if select is None else select.values_list(resource.key),
        params={"values": dict(values)} | ({} if rate is None else {"rate": rate}),
        reason=reason,
    )


def _input(one: Wanted) -> dict[str, Any]:
    return {**({"values": dict(one.values)} if one.values else {}), **({"if_match": one.if_match} if one.if_match else {})}


def _find(bulk: Bulk, actor: Any, names: Sequence[str]) -> dict[str, Any]:
    key = resource_of(bulk.resource).key
    wanted = [name for name in names if "\x00" not in name]
    return {str(getattr(thing, key)): thing for thing in reachable(bulk, actor).filter(**{f"{key}__in": wanted})}


def _do(bulk: Bulk, actor: User, found: Mapping[str, Any], item: Wanted, values: Values) -> None:
    _apply(bulk, actor, found, item, check(bulk, values))


def _apply(bulk: Bulk, actor: User, found: Mapping[str, Any], item: Wanted, values: Values) -> None:
    bulk.run(actor, _seen(bulk, found, item), values)


def _seen(bulk: Bulk, found: Mapping[str, Any], item: Wanted) -> Any:
    thing = found.get(item.name)
    if thing is None:
        raise not_found(resource_of(bulk.resource).label, item.name)
    if item.if_match and item.if_match not in {"*", etag(thing.version)}:
        raise stale(etag(thing.version))
    return thing


def _many(bulk: Bulk, actor: User, items: Sequence[kinds.Item], params: kinds.Params) -> list[Problem | None]:
    """A chunk with few statements: those with the same values together."""
    assert bulk.run_many is not None
    key = resource_of(bulk.resource).key
    rows = bulk.many_rows(reachable(bulk, actor).filter(**{f"{key}__in": [item.key for item in items]}))
    found = {str(getattr(thing, key)): thing for thing in rows}
    results: list[Problem | None] = [None] * len(items)
    together: dict[str, tuple[Values, list[tuple[int, Any]]]] = {}
    for position, item in enumerate(items):
        one = Wanted(item.key, item.input.get("values", {}), item.input.get("if_match", ""))
        values = {**params["values"], **one.values}
        try:
            thing = _seen(bulk, found, one)
            text = json.dumps(values, sort_keys=True, default=str)
            if text not in together:
                together[text] = (check(bulk, values), [])
            together[text][1].append((position, thing))
        except Problem as problem:
            results[position] = problem
    for ready, things in together.values():
        answers = bulk.run_many(actor, [thing for _position, thing in things], ready)
        for (position, _thing), answer in zip(things, answers, strict=True):
            results[position] = answer
    return results


def _spoilt(index: int, name: str, problem: Problem) -> Problem:
    """What an atomic call says: which item it was, and why."""
    pointer = f"/items/{index}"
    own = [error if error.pointer.startswith(pointer) else FieldError(pointer + error.pointer, error.detail) for error in problem.errors]
    return Problem(
        "item_failed",
        _("Nothing was done, because of “{name}”: {detail}").format(name=name, detail=problem.detail),
        status=409 if problem.status == 409 else 422,
        hint=problem.hint,
        errors=own or [FieldError(pointer, str(problem.detail))],
        extra={"index": index, "id": name, "item_code": problem.code, "item_status": problem.status},
    )
