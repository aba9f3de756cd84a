FORMATS = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
DATA_FREE = ["fp8_pc_pt", "fp8_pb_wo", "int8_wo", "w4a16", "w4a16_nvfp4"]  # need no calibration data
STATIC = ["int8", "w4a8_nvfp4_fp8"]  # calibrated too
FOUR_BITS = ["w4a16_asym", "int4_awq_asym", "nf4"]  # the first and the last need no calibration data
MX = ["w4a8_mxfp4_fp8", "mxfp4", "mxfp6", "mxfp8", "mxint8"]  # need no calibration data
