"""Components of another package than intrr_rec: a backbone, a quantizer, a log reader."""
