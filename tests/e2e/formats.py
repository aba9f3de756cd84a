FORMATS = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
DATA_FREE = ["fp8_pc_pt", "fp8_pb_wo", "int8_wo", "w4a16", "w4a16_nvfp4"]  # need no calibration data
