"""Defects of mergekit that the project's study lists: each has tests here that would fail with it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
# What goes wrong there: file and tests here.
DEFECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "choices for embedding and head are exchanged": (
        "surgery/vocabulary/test_swap_operator.py", ("test_init_is_for_the_input_table_and_output_for_the_head",),
    ),
    "weights of pieces are reversed": (
        "surgery/vocabulary/test_token_map.py", ("test_weights_of_pieces_sum_to_one",),
    ),
    "pieces of tokens outside ASCII are cut from their spelling": (
        "surgery/vocabulary/test_swap_operator.py",
        ("test_sub_token_rows_are_cut_by_bytes_not_by_their_spelling",),
    ),
    "random rows fail where a column is dead": (
        "surgery/vocabulary/test_row_makers.py", ("test_dead_columns_and_few_rows_do_not_break_random_rows",),
    ),
    "padding rows are lost": (
        "surgery/vocabulary/test_row_makers.py",
        ("test_copied_rows_are_copied_bit_for_bit_and_padding_stays", "test_a_padded_table_stays_padded"),
    ),
    "tokens of a union can never come up": (
        "tokenizers/test_extension.py", ("test_every_new_token_can_be_produced_and_nothing_is_lost",),
    ),
    "tensors that do not change go through memory": (
        "surgery/test_engine.py", ("test_files_that_do_not_change_are_shared",),
    ),
    "a swap of the vocabulary writes the whole model": (
        "surgery/vocabulary/test_swap_operator.py",
        ("test_only_the_tables_are_written_where_they_have_a_file_of_their_own",),
    ),
    "sums are taken in the number type of the files": (
        "surgery/merge/test_merge_operator.py",
        ("test_arithmetic_is_float32_whatever_the_files_hold",
         "test_what_is_kept_of_bfloat16_files_is_the_largest_of_the_exact_changes"),
    ),
    "draws depend on the order of tensors": (
        "surgery/merge/test_merge_operator.py", ("test_draws_do_not_depend_on_tensors_around_or_on_workers",),
    ),
    "an adapter loads the whole model": (
        "surgery/test_low_rank.py", ("test_an_adapter_touches_its_own_matrices_only",),
    ),
    "block scales of 8-bit weights are merged as weights": (
        "surgery/merge/test_merge_operator.py",
        ("test_block_scales_of_8_bit_weights_are_multiplied_in_before_anything_is_merged",),
    ),
    "the config of slices is not rewritten": (
        "surgery/merge/test_merge_operator.py", ("test_slices_rewrite_the_config_layer_by_layer",),
    ),
    "shapes are not looked at before the run": (
        "surgery/merge/test_merge_operator.py", ("test_models_of_another_shape_are_refused_at_plan_time",),
    ),
    "tables of different vocabularies are cut to the smaller one": (
        "surgery/merge/test_merge_operator.py",
        ("test_tables_of_different_height_are_refused_and_nothing_is_cut_off",
         "test_vocabularies_are_matched_by_token_and_padding_stays"),
    ),
    "a tensor that one model lacks ends the run in its middle": (
        "surgery/merge/test_merge_operator.py",
        ("test_a_tensor_that_one_model_lacks_is_named_before_anything_is_written",),
    ),
    "there is no way to go on after an interruption": (
        "surgery/test_engine.py", ("test_an_interrupted_run_goes_on_with_what_is_missing",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("defect", DEFECTS)
def test_a_known_defect_is_held_off_by_tests_that_are_there(defect: str) -> None:
    file, names = DEFECTS[defect]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert set(names) <= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
