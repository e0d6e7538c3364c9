"""What a hospital holds a study to: policy, privacy budget, disclosure control, audit."""
