"""The parts of dashboards, made by Grafana's own builders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from grafana_foundation_sdk.builders import common, heatmap, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")
TALL, SHORT = 8, 4

Panel = timeseries.Panel | stat.Panel | table.Panel | heatmap.Panel


class Query(NamedTuple):
    """PromQL, and the legend of its series; `exemplars`: with links to traces."""

    expr: str
    legend: str
    exemplars: bool = False


def lines(
    title: str, description: str, unit: str, *queries: Query, span: int = 12, dashed: str = "", least: float | None = 0
) -> timeseries.Panel:
    """Series over time; those whose names match `dashed` are limits, not measurements."""
    panel = (
        timeseries.Panel().title(title).description(description).unit(unit).datasource(SOURCE).height(TALL).span(span)
        .fill_opacity(6).line_width(1.5).show_points(options.VisibilityMode.NEVER).span_nulls(False)
        .legend(common.VizLegendOptions().show_legend(True).placement(options.LegendPlacement.BOTTOM)
                .display_mode(options.LegendDisplayMode.LIST))
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
    )  # fmt: skip
    if least is not None:
        panel = panel.min(least)
    if dashed:
        style = [
            model.DynamicConfigValue("custom.lineStyle", {"fill": "dash", "dash": [8, 6]}),
            model.DynamicConfigValue("custom.fillOpacity", 0),
        ]
        panel = panel.override_by_regexp(dashed, style)
    _ask(panel, queries)
    return panel


def number(
    title: str, description: str, unit: str, *queries: Query, red: float | None = None, span: int = 6
) -> stat.Panel:
    """The present value of each series, red from `red` on."""
    steps = [model.Threshold(value=None, color="green")]
    if red is not None:
        steps.append(model.Threshold(value=red, color="red"))
    panel = (
        stat.Panel().title(title).description(description).unit(unit).datasource(SOURCE).height(SHORT).span(span)
        .graph_mode(options.BigValueGraphMode.AREA)
        .color_mode(options.BigValueColorMode.VALUE if red is not None else options.BigValueColorMode.NONE)
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .thresholds(build.ThresholdsConfig().mode(model.ThresholdsMode.ABSOLUTE).steps(steps))
    )  # fmt: skip
    _ask(panel, queries)
    return panel


def rows(title: str, description: str, *queries: Query, units: dict[str, str], span: int = 24) -> table.Panel:
    """A table: a row for each set of labels, a column for each query, which is named by its legend."""
    panel = table.Panel().title(title).description(description).datasource(SOURCE).height(TALL).span(span)
    hidden = {"Time": True, **{f"Time {number + 1}": True for number in range(len(queries))}}
    names = {f"Value #{chr(65 + number)}": query.legend for number, query in enumerate(queries)}
    panel = panel.transformations([
        model.DataTransformerConfig(id_val="merge", options={}),
        model.DataTransformerConfig(id_val="organize", options={"excludeByName": hidden, "renameByName": names}),
    ])  # fmt: skip
    for column, unit in units.items():
        panel = panel.override_by_name(column, [model.DynamicConfigValue("unit", unit)])
    for number, query in enumerate(queries):
        query_target = prometheus.Dataquery().expr(query.expr).instant().format(PromQueryFormat.TABLE)
        panel = panel.with_target(query_target.ref_id(chr(65 + number)).datasource(SOURCE))
    return panel


def heat(title: str, description: str, query: Query, unit: str, span: int = 12) -> heatmap.Panel:
    """A panel of a histogram over time: a column for each moment, as dark as responses are in its buckets."""
    panel = heatmap.Panel().title(title).description(description).datasource(SOURCE).height(TALL).span(span).unit(unit)
    query_target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).range()
    return panel.with_target(query_target.format(PromQueryFormat.HEATMAP).ref_id("A").datasource(SOURCE))


def board(title: str, uid: str, description: str, runbooks: str, *variables: build.QueryVariable) -> build.Dashboard:
    """A dashboard with its variables, its annotations and its links, and nothing on it yet."""
    dashboard_builder = (
        build.Dashboard(title).uid(uid).tags(["tocsin"]).description(description).editable().refresh("30s")
        .time("now-6h", "now").timezone("browser").tooltip(model.DashboardCursorSync.CROSSHAIR)
        .with_variable(build.DatasourceVariable("datasource").label("data").type("prometheus"))
        .link(build.DashboardLink("Tocsin").type(model.DashboardLinkType.DASHBOARDS).tags(["tocsin"])
              .include_vars(True).keep_time(True))
        .link(build.DashboardLink("Runbooks").type(model.DashboardLinkType.LINK).url(runbooks).target_blank(True))
    )  # fmt: skip
    for variable in variables:
        dashboard_builder = dashboard_builder.with_variable(variable)
    for name, expr, colour in (
        ("alerts", 'ALERTS{alertname=~"Tocsin.*",alertstate="firing"}', "red"),
        ("alarms", 'sum by (model, severity) (increase(tocsin_alarms_total{severity="critical"}[1m])) > 0', "orange"),
        ("new bundles", "tocsin_bundle_info unless tocsin_bundle_info offset 2m", "blue"),
    ):
        annotation = build.AnnotationQuery().name(name).datasource(SOURCE).expr(expr).icon_color(colour)
        dashboard_builder = dashboard_builder.annotation(annotation.enable(name != "alarms").hide(False))
    return dashboard_builder


def with_rows(dashboard: build.Dashboard, panels: Mapping[str, Sequence[Panel]]) -> build.Dashboard:
    """The dashboard with a row for each title, and below it that row's panels."""
    for title, of_row in panels.items():
        dashboard = dashboard.with_row(build.Row(title))
        for panel in of_row:
            dashboard = dashboard.with_panel(panel)
    return dashboard


def variable(name: str, label: str, query: str) -> build.QueryVariable:
    """A choice among a label's values, all of them unless chosen otherwise."""
    query_variable = (
        build.QueryVariable(name).label(label).datasource(SOURCE).query(query).multi(True).include_all(True)
    )
    every = model.VariableOption(text="All", value="$__all")
    return query_variable.refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        model.VariableSort.ALPHABETICAL_ASC
    ).current(every).all_value(".+")  # fmt: skip


def _ask(panel: Any, queries: tuple[Query, ...]) -> None:
    for number, (expr, legend, exemplars) in enumerate(queries):
        query_target = prometheus.Dataquery().expr(expr).legend_format(legend).range().exemplar(exemplars)
        panel.with_target(query_target.ref_id(chr(65 + number)).datasource(SOURCE))
