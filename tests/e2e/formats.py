FORMATS = ["fp8", "int8_sq", "int4_awq", "w4a8_awq", "nvfp4"]
