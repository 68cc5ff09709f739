"""The ledger: what happened to weights, signed, in one append-only Merkle tree.

    draft --statement, DSSE signature--> envelope --leaf--> tree --signed checkpoint--> copies held elsewhere

No tensor library is loaded here; nothing is asked of the network.
"""
