"""The report and its schedule: days pass in no time."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sales
from omniq.testing import Sandbox


@pytest.fixture
def app(omniq_sandbox: Callable[..., Sandbox], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    monkeypatch.setattr(sales, "REPORTS", tmp_path)
    return omniq_sandbox(sales.oq)


def test_the_report_sums_up_orders(tmp_path: Path) -> None:
    report = Path(sales.write_report(str(sales.ORDERS), str(tmp_path)))
    assert report.read_text("utf-8") == (
        "apples           15.80\npears             6.60\nplums            12.00\ntotal            34.40\n"
    )
    assert list(tmp_path.iterdir()) == [report]


def test_it_is_written_on_working_days(app: Sandbox, tmp_path: Path) -> None:
    assert sales.plan() == sales.plan() == "sales-report"  # a second deployment changes nothing
    app.eager = True
    app.advance(days=7)
    arguments = [str(sales.ORDERS), str(tmp_path)]
    app.assert_enqueued(func=sales.write_report, args=arguments, state="success", count=5)
    assert [path.name for path in tmp_path.iterdir()] == ["sales.txt"]


def test_a_failure_is_tried_again(app: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sales, "ORDERS", tmp_path / "orders.csv")
    sales.plan()
    app.advance(days=4)
    assert {run.task.state for run in app.drain().failed} == {"scheduled"}
    (tmp_path / "orders.csv").write_text("product,count,price\nfigs,1,0.9\n", "utf-8")
    app.advance(minutes=10)
    assert app.drain().raise_failed().succeeded
    assert "figs" in (tmp_path / "sales.txt").read_text("utf-8")
