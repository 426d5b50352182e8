"""`chargaff tokenize`: what a model's tokenizer makes of sequences."""

from typing import Annotated

from cyclopts import Parameter


def run(
    model: str,
    input: str,
    /,
    *,
    special: bool = True,
    keep_case: Annotated[bool, Parameter(negative="")] = False,
    column: str | None = None,
    as_json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show tokens, ids and the bases each token covers.

    INPUT is a sequence, or a file: FASTA or FASTQ (plain, gzip or bgzip; - is
    standard input), or a table with --column. No weights are read.

    Args:
        model: checkpoint name (see `chargaff models`), hub id, folder or weight file.
        input: what to tokenise.
        special: with the tokens that the tokenizer adds.
        keep_case: hand letters over as they are; otherwise in upper case, as the models read them.
        column: of a table: where the sequences are.
        as_json: print a JSON list with an entry a record: id, length_bp, tokens, ids, span_bp.
    """
    import json

    from chargaff.workflows.tokenize import tokenize

    records = tokenize(model, input, special=special, keep_case=keep_case, column=column)
    if as_json:
        separator = "["
        for record in records:
            entry = {
                "id": record.id,
                "length_bp": record.length_bp,
                "tokens": record.tokens,
                "ids": record.ids.tolist(),
                "span_bp": record.span_bp.tolist(),
            }
            print(f"{separator}{json.dumps(entry)}", end="")
            separator = ",\n "
        print("[]" if separator == "[" else "]")
        return
    for number, record in enumerate(records):
        if number == 0:
            print("record\tindex\ttoken\tid\tstart\tend")
        rows = zip(record.tokens, record.ids.tolist(), record.span_bp.tolist(), strict=True)
        for index, (token, token_id, (start, end)) in enumerate(rows):
            print(f"{record.id}\t{index}\t{token}\t{token_id}\t{start}\t{end}")
