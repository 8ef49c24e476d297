"""Rows of a table start by seed, table and row alone, however the table is cut."""

import pytest
import torch

from intrr_rec.models.embeddings.tables import BLOCK_ROWS, InitialRows

ROWS, WIDTH, STD = 2 * BLOCK_ROWS + 37, 6, 0.3


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(3)


def whole(name="uid", rows=ROWS):
    return InitialRows(name, WIDTH, STD)(torch.empty(rows, WIDTH))


def shard(first_row, first_column, rows, columns):
    found = torch.empty(rows, columns)
    InitialRows("uid", WIDTH, STD).fill(found, first_row, first_column)
    return found


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_shards_of_rows_make_the_whole(ranks):
    each = -(-ROWS // ranks)
    parts = [shard(start, 0, min(each, ROWS - start), WIDTH) for start in range(0, ROWS, each)]
    assert torch.equal(torch.cat(parts), whole())


@pytest.mark.parametrize("ranks", [2, 3])
def test_shards_of_columns_make_the_whole(ranks):
    each = WIDTH // ranks
    parts = [shard(0, start, ROWS, each) for start in range(0, WIDTH, each)]
    assert torch.equal(torch.cat(parts, dim=1), whole())


def test_a_grown_table_keeps_its_first_rows():
    assert torch.equal(whole(rows=ROWS)[: BLOCK_ROWS + 5], whole(rows=BLOCK_ROWS + 5))


def test_rows_are_normal_and_all_different():
    table = whole()
    assert abs(table.mean()) < 0.01
    assert table.std() == pytest.approx(STD, rel=0.02)
    assert len(table.unique(dim=0)) == ROWS
    assert (
        abs(torch.corrcoef(torch.stack([table[:BLOCK_ROWS].ravel(), table[BLOCK_ROWS : 2 * BLOCK_ROWS].ravel()]))[0, 1])
        < 0.02
    )


def test_another_seed_or_table_starts_elsewhere():
    table, other = whole(), whole("codebooks")
    torch.manual_seed(4)
    for different in (other, whole()):
        assert (different != table).all()


def test_what_the_caller_draws_does_not_matter():
    torch.randn(5)
    table = whole()
    torch.manual_seed(3)
    assert torch.equal(table, whole())


def test_given_first_rows_stand_in_whatever_shard_holds_them():
    given = torch.randn(BLOCK_ROWS + 3, WIDTH)
    rows = InitialRows("uid", WIDTH, STD)
    rows.first_RD = given
    expected = torch.cat([given, whole()[len(given) :]])
    assert torch.equal(rows(torch.empty(ROWS, WIDTH)), expected)
    part = torch.empty(50, 2)
    rows.fill(part, BLOCK_ROWS - 10, 3)
    assert torch.equal(part, expected[BLOCK_ROWS - 10 : BLOCK_ROWS + 40, 3:5])
