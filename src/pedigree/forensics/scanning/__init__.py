"""One model against many: libraries of fingerprints, nearest neighbors, scans."""
