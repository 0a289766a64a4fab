[angiovault]
title="AngioVault"
desc="DICOM images (AngioVault)"
port_forward="no"
dst.ports="11112/tcp"
