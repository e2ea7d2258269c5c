"""What the Dagster catalog shows of a declaration before anything ran: columns, rules, quarantines.

Nothing here loads Arrow: it is read whenever the code location loads.
"""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg

from flywheel.column import Column
from flywheel.contract.rules import clauses, describe
from flywheel.dataset import Dataset

DATASET_LAYER, QUARANTINE_LAYER = "dataset", "quarantine"


def column_schema(dataset: Dataset) -> dg.TableSchema:
    """The declared columns with their rules."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                column.dtype,
                description=column.description,
                constraints=_constraints(column, unique=dataset.key == (column.name,)),
                tags={"classification": column.classification} if column.classification else None,
            )
            for column in dataset.columns
        ],
        constraints=dg.TableConstraints(other=[f"unique: {', '.join(dataset.key)}"]),
    )


def contract_sentence(dataset: Dataset) -> str:
    """The contract in a sentence, as the description of its check."""
    return f"Columns and types are as declared; {'; '.join(describe(dataset))}."


def quarantine_key(table: dg.AssetKey) -> dg.AssetKey:
    """Key of the quarantine of a dataset."""
    return dg.AssetKey([*table.path[:-1], f"{table.path[-1]}__quarantine"])


def quarantine_specs(tables: Iterable[object]) -> list[dg.AssetSpec]:
    """The quarantine of every dataset among some assets.

    They are not computed by anything of their own: a run of the dataset fills and empties them.
    """
    return [
        dg.AssetSpec(
            quarantine_key(spec.key),
            group_name=spec.group_name,
            description=f"Rows that were to be part of {spec.key.path[-1]} and break its contract, "
            "with what is wrong with each. Empty again once a corrected batch was ingested.",
            owners=spec.owners,
            kinds={"iceberg"},
            tags={"flywheel/layer": QUARANTINE_LAYER},
            deps=[spec.key],
        )
        for table in tables
        if isinstance(table, dg.AssetsDefinition)
        for spec in table.specs
        if spec.tags.get("flywheel/layer") == DATASET_LAYER
    ]


def _constraints(column: Column, *, unique: bool) -> dg.TableColumnConstraints:
    other = clauses(column)
    if column.classification:
        other.append(column.classification)
    return dg.TableColumnConstraints(nullable=column.nullable, unique=unique, other=other)
