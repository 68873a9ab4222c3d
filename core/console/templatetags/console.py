"""Template tags of the console: each returns one component. No style attributes: widths are SVG attributes."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import cache, lru_cache
from typing import Any
from urllib.parse import urlencode

from django import forms, template
from django.templatetags.static import static
from django.utils import timezone
from django.utils.formats import date_format
from django.utils.html import conditional_escape, format_html, format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy, ngettext, pgettext, pgettext_lazy

from core.audit.reading import said
from core.console.actions import Action

register = template.Library()
register.filter("said", said)

# Each status has a shape of its own, so that nothing is told by colour alone.
SHAPES = {
    "succeeded": "succeeded applied healthy active done consuming online match published on connected committed",
    "processing": "processing running rebalancing migrating producing",
    "waiting": "waiting pending queued empty",
    "none": "none offline off skipped expired rolled_back superseded",
    "unknown": "unknown draft",
    "later": "later outdated degraded suspended behind delayed",
    "failed": "failed failing drift drifted held stalled rejected undecided",
    "dead": "dead down retired cancelled",
    "special": "special gated shadow half open",
}
GLYPH = {status: shape for shape, statuses in SHAPES.items() for status in statuses.split()}
TONE = {
    "succeeded": "ok",
    "processing": "run",
    "waiting": "",
    "none": "",
    "unknown": "",
    "later": "later",
    "failed": "fail",
    "dead": "dead",
    "special": "special",
}
WORDS = {
    "active": gettext_lazy("Active"),
    "pending": gettext_lazy("Pending"),
    "rejected": gettext_lazy("Rejected"),
    "retired": gettext_lazy("Retired"),
    "suspended": gettext_lazy("Suspended"),
    "published": gettext_lazy("Published"),
    "failing": gettext_lazy("Failing"),
    "drifted": gettext_lazy("Drift"),
    "held": gettext_lazy("Drift, waits for a person"),
    "online": gettext_lazy("Online"),
    "offline": gettext_lazy("Offline"),
    "applied": gettext_lazy("Applied"),
    "outdated": gettext_lazy("Outdated"),
    "unknown": gettext_lazy("Unknown"),
    "running": gettext_lazy("Running"),
    "on": gettext_lazy("On"),
    "off": gettext_lazy("Off"),
    "waiting": gettext_lazy("Waiting"),
    "processing": gettext_lazy("Processing"),
    "succeeded": gettext_lazy("Succeeded"),
    "failed": gettext_lazy("Failed"),
    "later": gettext_lazy("Later"),
    "dead": gettext_lazy("Dead"),
    "skipped": gettext_lazy("Skipped"),
    "expired": gettext_lazy("Expired"),
    "delayed": gettext_lazy("Delayed"),
    "cancelled": gettext_lazy("Cancelled"),
    "done": gettext_lazy("Done"),
    "connected": gettext_lazy("Connected"),
    "down": gettext_lazy("Down"),
    "half": pgettext_lazy("message", "Half"),
    "open": pgettext_lazy("half message", "Open"),
    "undecided": pgettext_lazy("half message", "Undecided"),
    "committed": gettext_lazy("Committed"),
    "rolled_back": gettext_lazy("Rolled back"),
}


@cache
def _use(name: str) -> str:
    return f"{static('console/icons.svg')}#{name}"


def word(status: str) -> str:
    """The translated word of a status."""
    return str(WORDS.get(status) or status.capitalize())


def dash(reason: Any) -> SafeString:
    """Unknown, or nothing to tell: a dash that says why."""
    return format_html('<span class="none" title="{}">—</span>', reason)


@register.simple_tag
def icon(name: str, cls: str = "") -> SafeString:
    """An icon of the sprite."""
    return _icon(name, str(cls))


@lru_cache(1024)
def _icon(name: str, cls: str) -> SafeString:
    return format_html('<svg class="i {}" aria-hidden="true"><use href="{}"></use></svg>', cls, _use(name))


@register.simple_tag
def glyph(status: str, label: Any = "") -> SafeString:
    """A status shape alone; give a label wherever no text stands beside it."""
    return _glyph(GLYPH.get(status, "unknown"), str(label))


@lru_cache(4096)  # a list has hundreds of the same few
def _glyph(shape: str, label: str) -> SafeString:
    if label:
        return format_html(
            '<svg class="g g-{}" role="img" aria-label="{}"><title>{}</title><use href="{}"></use></svg>',
            shape,
            label,
            label,
            _use("s-" + shape),
        )
    return format_html('<svg class="g g-{}" aria-hidden="true"><use href="{}"></use></svg>', shape, _use("s-" + shape))


@register.simple_tag
def pill(status: str, label: Any = None, plain: Any = False) -> SafeString:
    """A status: shape, word, then colour; `plain` leaves the ground out, as tables want it."""
    shape = GLYPH.get(status, "unknown")
    return format_html('<span class="pill {}">{}{}</span>', "plain" if plain else TONE[shape], glyph(status), label or word(status))


@register.simple_tag
def dots(pairs: Iterable[tuple[str, str]]) -> SafeString:
    """One shape per consumer group, from pairs (group, status) in the order of the column's head."""
    return format_html(
        '<span class="dots">{}</span>',
        format_html_join("", "{}", ((glyph(status, f"{group}: {word(status)}"),) for group, status in pairs)),
    )


@register.simple_tag
def options(names: Iterable[str]) -> SafeString:
    """What a field suggests, for a datalist; a loop in the template takes five times as long for hundreds of names."""
    return format_html_join("", '<option value="{}"></option>', ((name,) for name in names))


@register.simple_tag
def conv(applied: int, total: int, outdated: int = 0, unknown: int = 0, failed: int = 0, cls: str = "", text: Any = True) -> SafeString:  # noqa: PLR0917 - a tag's arguments
    """The convergence bar: applied, outdated, unknown and failed of all that are online."""
    x, rects = 0.0, []
    for name, count in (("applied", applied), ("outdated", outdated), ("unknown", unknown), ("failed", failed)):
        if count and total:
            width = 100 * count / total
            rects.append((name, f"{x:.2f}", f"{max(width - 0.8, 0.8):.2f}"))
            x += width
    label = _("{applied} of {total} applied").format(applied=applied, total=total)
    return format_html(
        '<span class="conv {}" title="{}"><svg role="img" aria-label="{}">{}</svg>{}</span>',
        cls,
        label,
        label,
        format_html_join("", '<rect class="seg-{}" x="{}%" width="{}%" height="100%"/>', rects),
        format_html("<span>{}/{}</span>", applied, total) if text else "",
    )


@register.simple_tag
def converged(row: Any, reason: Any = "") -> SafeString:
    """The bar of a row that `PublicationQuerySet.with_applied_counts` annotated; a dash while nobody is online."""
    if row is None:
        return dash(reason or _("Not published: it is not approved yet"))
    if not row.online_count:
        return dash(reason or _("No instance is online"))
    return conv(row.applied_count, row.online_count, row.outdated_count, row.unknown_count)


@register.simple_tag
def meter(values: Sequence[tuple[str, int]]) -> SafeString:
    """A full-width bar of parts: pairs (status, count); nothing at all draws the empty bar."""
    total = sum(count for _status, count in values)
    x, rects = 0.0, []
    names = {"succeeded": "succeeded", "processing": "run", "waiting": "unknown", "later": "later", "failed": "failed", "dead": "dead"}
    for status, count in values:
        if count and total:
            width = 100 * count / total
            rects.append((names.get(status, "unknown"), f"{x:.2f}", f"{width:.2f}", f"{word(status)}: {count:,}"))
            x += width
    return format_html(
        '<span class="conv full"><svg aria-hidden="true">{}</svg></span>',
        format_html_join("", '<rect class="seg-{}" x="{}%" width="{}%" height="100%"><title>{}</title></rect>', rects),
    )


@register.simple_tag
def meter_of(totals: Mapping[str, int]) -> SafeString:
    """Like meter, from a mapping of status words to counts, in its order."""
    return meter(list(totals.items()))


@register.simple_tag
def progress(done: int, failed: int, total: int) -> SafeString:
    """The bar of long work: done and failed of all; what is skipped stays empty."""
    percent = 100 * (done + failed) // total if total else 0
    good, bad = (100 * done / total, 100 * failed / total) if total else (0.0, 0.0)
    return format_html(
        '<span class="conv"><svg role="img" aria-label="{}"><rect class="seg-succeeded" width="{}%" height="100%"/>'
        '<rect class="seg-failed" x="{}%" width="{}%" height="100%"/></svg><span>{}\u202f%</span></span>',
        f"{percent} %",
        f"{good:.2f}",
        f"{good:.2f}",
        f"{bad:.2f}",
        str(percent),
    )


@register.filter
def per_second(rate: float) -> str:
    """Items per second: exact while they are few."""
    return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


@register.simple_tag
def publication_state(row: Any) -> SafeString:
    """The state of a publication or a release in a word that cannot be taken for a request's state."""
    if row is None:
        return dash(_("Not published"))
    words = {"pending": _("Not out yet"), "retired": _("Node gone"), "superseded": _("Superseded")}
    return pill(row.state, words.get(row.state), plain=True)


@register.filter
def n(value: Any) -> SafeString | str:
    """An integer with thousands separators; unknown is a dash, never 0."""
    if value is None or value == "":
        return dash(_("Unknown: not reported"))
    return f"{value:,}" if isinstance(value, int | float) else conditional_escape(value)


@register.filter
def z(value: Any) -> SafeString | str:
    """Like n, with a quiet zero, so that what is not zero draws the eye."""
    return mark_safe('<span class="z">0</span>') if value == 0 and value is not None else n(value)


@register.filter
def span(duration: timedelta) -> str:
    """A length of time in its largest unit: 12 s, 5 min, 3 h, 9 d."""
    seconds = max(0, round(duration.total_seconds()))
    for limit, unit, template_ in (
        (120, 1, pgettext("duration", "{n} s")),
        (7200, 60, pgettext("duration", "{n} min")),
        (172_800, 3600, pgettext("duration", "{n} h")),
    ):
        if seconds < limit:
            return template_.format(n=seconds // unit)
    return pgettext("duration", "{n} d").format(n=f"{seconds // 86_400:,}")


@register.filter
def took(duration: timedelta | float | None) -> SafeString | str:
    """How long something took, a length of time or milliseconds: 85 ms, 1.2 s, then like `span`; unknown is a dash."""
    if duration is None:
        return dash(_("Unknown: not reported"))
    exact = duration if isinstance(duration, timedelta) else timedelta(milliseconds=duration)
    seconds = exact.total_seconds()
    if seconds < 1:
        return pgettext("duration", "{n} ms").format(n=round(seconds * 1000))
    return pgettext("duration", "{n} s").format(n=f"{seconds:.1f}") if seconds < 10 else span(exact)


def stamp_text(at: datetime) -> str:
    """The moment with its offset, for titles and key-value lists."""
    return timezone.localtime(at).strftime("%Y-%m-%d %H:%M:%S %Z")


@register.filter
def moment(at: datetime | None) -> str:
    """The moment with its offset, inside of a text."""
    return "" if at is None else stamp_text(at)


@register.simple_tag
def when(at: datetime | None, reason: Any = "") -> SafeString:
    """How long ago, or in how long, with the moment on hover."""
    if at is None:
        return dash(reason or _("Never"))
    distance = timezone.now() - at
    text = span(distance) if distance >= timedelta(seconds=-1) else _("in {time}").format(time=span(-distance))
    return format_html('<time datetime="{}" title="{}">{}</time>', at.isoformat(), stamp_text(at), text)


@register.simple_tag
def stamp(at: datetime | None, reason: Any = "") -> SafeString:
    """The moment itself, to the second; how long ago on hover."""
    if at is None:
        return dash(reason or _("Never"))
    local = timezone.localtime(at)
    short = (
        local.strftime("%H:%M:%S")
        if local.date() == timezone.localdate()
        else date_format(local, "j M H:i")
        if local.year == timezone.localdate().year
        else local.strftime("%Y-%m-%d")
    )
    distance = timezone.now() - at
    hover = _("{time} ago").format(time=span(distance)) if distance.total_seconds() >= 0 else _("in {time}").format(time=span(-distance))
    return format_html('<time datetime="{}" title="{} · {}">{}</time>', at.isoformat(), stamp_text(at), hover, short)


@register.simple_tag
def countdown(until: datetime | None) -> SafeString:
    """Minutes and seconds left, counting in the browser."""
    if until is None:
        return dash(_("Off: nothing to count down"))
    left = max(0, round((until - timezone.now()).total_seconds()))
    return format_html(
        '<span class="mono" data-left="{}" title="{}">{}:{}</span>', str(left), stamp_text(until), str(left // 60), f"{left % 60:02d}"
    )


@register.filter
def size(value: int | None) -> SafeString | str:
    """Bytes for people: 812 B, 1.2 kB, 3.4 MB (powers of 1,000)."""
    if value is None:
        return dash(_("Unknown: not reported"))
    if value < 1000:
        return f"{value} B"
    return f"{value / 1000:,.1f} kB" if value < 1_000_000 else f"{value / 1_000_000:,.1f} MB"


@register.filter
def initial(value: Any) -> str:
    """The letter of a broker kind's badge."""
    return {"builtin": "B", "kafka": "K", "rocketmq": "R", "rabbitmq": "Q"}.get(str(value), str(value)[:1].upper())


@register.simple_tag
def kind(cluster: Any) -> SafeString:
    """The badge of a cluster's broker kind and the cluster's name."""
    if cluster is None:
        return dash(_("Allocated when it is approved"))
    return format_html('<span class="kind" title="{}">{}</span>{}', cluster.get_kind_display(), initial(cluster.kind), cluster.name)


@register.simple_tag(takes_context=True)
def url_with(context: template.Context, **changes: Any) -> str:
    """The present address with some parameters changed; None takes one out, a change leads back to the first page."""
    pairs = [(key, value) for key, values in context["request"].GET.lists() if key != "page" and key not in changes for value in values]
    return "?" + urlencode([*pairs, *((key, value) for key, value in changes.items() if value not in (None, ""))])


@register.simple_tag(takes_context=True)
def keep(context: template.Context, *without: str) -> SafeString:
    """The present parameters as hidden fields of a form that changes those named; it leads back to the first page."""
    query = context["request"].GET
    return format_html_join(
        "",
        '<input type="hidden" name="{}" value="{}">',
        ((key, value) for key in query if key not in {*without, "page", "export"} for value in query.getlist(key)),
    )


@register.simple_tag(takes_context=True)
def pick(context: template.Context, row: Any) -> SafeString | str:
    """The cell with the box that selects a row, where a list has something to do with selected rows; names go to the bulk page."""
    if not context.get("bulk_url"):
        return ""
    label = _("Select {name}").format(name=row)
    box = '<td class="pick"><input type="checkbox" data-pick name="names" value="{}" aria-label="{}"></td>'
    return format_html(box, getattr(row, "name", row.pk), label)


@register.simple_tag(takes_context=True)
def url_with_key(context: template.Context, key: str, value: Any) -> str:
    """Like url_with, for a parameter whose name is only known at run time."""
    return url_with(context, **{key: value})


@register.simple_tag
def action(item: Action) -> SafeString:
    """A button of `core.console.actions.Action`: a link, or dashed with its reason."""
    picture = icon(item.icon) if item.icon else ""
    if item.why:
        return format_html(
            '<a class="btn {}" role="button" tabindex="0" aria-disabled="true" data-why="{}">{}{}</a>',
            item.tone,
            item.why,
            picture,
            item.label,
        )
    return format_html('<a class="btn {}" href="{}">{}{}</a>', item.tone, item.url, picture, item.label)


@register.inclusion_tag("console/_field.html")
def field(bound: forms.BoundField, cls: str = "") -> dict[str, Any]:
    """A form field with its label, hint and errors, tied together for screen readers."""
    widget = bound.field.widget
    check = isinstance(widget, forms.CheckboxInput)
    attrs: dict[str, Any] = {}
    if not check:
        attrs["class"] = f"field {widget.attrs.get('class', '')}".strip()
    described = [f"{bound.id_for_label}-hint"] if bound.help_text else []
    if bound.errors:
        described.append(f"{bound.id_for_label}-error")
        attrs["aria-invalid"] = "true"
    if described:
        attrs["aria-describedby"] = " ".join(described)
    return {"bound": bound, "widget": bound.as_widget(attrs=attrs), "check": check, "hidden": bound.is_hidden, "cls": cls}


@register.simple_tag
def many(number: int, one: str, more: str) -> str:
    """A counted noun that templates cannot pluralise by themselves; the words are message ids of the catalogue."""
    return ngettext(one, more, number).format(n=f"{number:,}")
