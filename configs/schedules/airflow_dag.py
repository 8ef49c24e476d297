"""A DAG for Airflow 2.4 or later: `intrr pipeline` every night, tried again where it stopped. Copy it into the folder of your DAGs.

SHARED is a folder that the worker sees, with the environment, daily.yaml, the logs and all that the pipeline makes.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from airflow import DAG

try:  # Airflow 3
    from airflow.providers.standard.operators.bash import BashOperator
except ImportError:  # Airflow 2
    from airflow.operators.bash import BashOperator

SHARED = "/SHARED"

with DAG(
    dag_id="intrr_daily",
    schedule="30 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,  # one start adds all logs that have come since the last one
    max_active_runs=1,
    tags=["intrr_rec"],
):
    BashOperator(
        task_id="pipeline",
        bash_command=f"{SHARED}/.venv/bin/intrr pipeline {SHARED}/daily.yaml",
        cwd=SHARED,
        retries=3,
        retry_delay=timedelta(minutes=10),
        execution_timeout=timedelta(hours=20),
    )
