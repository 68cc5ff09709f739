"""Exact tests: p-values that follow from a symmetry of initialization and training, not from a bank of models.

card            what a test claims and assumes, and what it found
assignment      matchings of units that never look at indices, and their score on held-out views
fixed_points    matched units that bear the same number
increasing      matched units that kept their order (pruned, widened, inserted)
sign_flip       blocks that kept their sign
gram_agreement  units that stand to each other as in the other model, in any frame; the choices of a framer paid for
plane_agreement rotary planes that agree in a frame fitted on vocabulary rows, which a framer cannot choose
head_agreement  heads as bilinear forms, and position rows, in that frame; the order of heads paid for
tails           normal and Fisher tails in log space

But for the last three they hold for weights that were not disguised. Whoever may permute units or flip signs at will
can erase this evidence; matchings fitted to a gauge and scored on held-out views take over then.
"""
