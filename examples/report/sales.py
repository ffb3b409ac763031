"""A report that is written each morning: a schedule, the task that it adds, and what becomes of its failures."""

from __future__ import annotations

import csv
import datetime as dt
import os
from collections import defaultdict
from pathlib import Path

from omniq import OmniQ, Slots

ORDERS = Path(os.environ.get("ORDERS", Path(__file__).with_name("orders.csv")))
REPORTS = Path(os.environ.get("REPORTS", "reports"))

oq = OmniQ(project_name="sales")  # SQLite in ./.omniq, unless configured otherwise


@oq.task(retries=5, retry_delay=60, timeout=300, result_ttl=dt.timedelta(days=30))
def write_report(orders: str, folder: str) -> str:
    """Sum up the orders by product, and return where the report is.

    It may run twice, so it is written whole under another name first, and the second one takes the place of the first.
    """
    totals: defaultdict[str, float] = defaultdict(float)
    with open(orders, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            totals[row["product"]] += int(row["count"]) * float(row["price"])
    lines = [f"{product:<12}{total:>10.2f}" for product, total in sorted(totals.items())]
    lines.append(f"{'total':<12}{sum(totals.values()):>10.2f}")
    report = Path(folder) / "sales.txt"
    report.parent.mkdir(parents=True, exist_ok=True)
    unfinished = report.with_suffix(f".{os.getpid()}")
    unfinished.write_text("\n".join(lines) + "\n", "utf-8")
    unfinished.replace(report)
    return str(report)


def plan() -> str:
    """Let it be written at half past six on working days, Berlin time.

    The schedule has an id of its own, so planning it again, as at each deployment, changes nothing.
    """
    when: Slots = {
        "cron": "30 6 * * 1-5",
        "timezone": "Europe/Berlin",
        "schedule_id": "sales-report",
        "max_running": 1,
    }
    return write_report.schedule(when, str(ORDERS.resolve()), str(REPORTS.resolve()))


if __name__ == "__main__":
    with oq:
        schedule = oq.get_schedule(plan())
        print(f"{schedule.id}: next at {schedule.next_run}")
