"""Line charts as plain numbers: values land where they belong, gaps stay gaps and spikes are kept."""

import pytest

from jepa.html import charts


def test_scales_put_values_where_they_belong():
    scale = charts.Scale(0, 10, 100, 200)
    assert [scale(v) for v in (0, 5, 10, 99, -1)] == [100, 150, 200, 200, 100]
    log = charts.Scale(0.01, 100, 0, 400, log=True)
    assert [log(v) for v in (0.01, 1, 100, 0)] == pytest.approx([0, 200, 400, 0])
    assert log.ticks() == pytest.approx([0.01, 0.1, 1, 10, 100])
    assert scale.ticks() == [0, 5, 10] and charts.Scale(0, 1, 0, 1).ticks() == pytest.approx([0, 0.5, 1])


def test_a_scale_is_logarithmic_only_where_values_span_decades():
    assert charts.value_scale([[(0, 1.0), (1, 0.001)]]).log
    assert not charts.value_scale([[(0, 1.0), (1, 0.5)]]).log
    assert not charts.value_scale([[(0, 1.0), (1, 0.0)]]).log
    floored = charts.value_scale([[(0, -30.0), (1, 0.4)]], floor=-0.25)
    assert floored.low > -0.4 and floored(-30.0) == floored.start


def test_lines_break_at_missing_values_and_keep_spikes():
    x, y = charts.Scale(0, 10, 0, 10), charts.Scale(0, 10, 10, 0)
    assert charts.path([(0, 0.0), (1, 1.0), (2, None), (3, 3.0), (4, 4.0)], x, y) == "M0 10L1 9M3 7L4 6"
    long = [(k, 1.0) for k in range(5000)]
    long[2345] = (2345, 9.0)
    x = charts.Scale(0, 5000, 0, 1000)
    drawn = charts.path(long, x, y)
    assert "469 1" in drawn and drawn.count("L") < 1100


def test_a_chart_names_its_edges_and_ticks_for_the_template():
    chart = charts.chart([[(0, 1.0), (10, 2.0)]], charts.step_scale(10), unit="step")
    assert chart["unit"] == "step" and not chart["log"] and len(chart["paths"]) == 1
    assert (
        chart["left"] < chart["right"] < chart["width"] and chart["top"] < chart["bottom"] < chart["height"]
    )
    assert all(chart["left"] <= x <= chart["right"] for x, _ in chart["xticks"])
