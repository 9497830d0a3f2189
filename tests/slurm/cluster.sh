#!/usr/bin/env bash
# A SLURM cluster of this one machine, for tests: `cluster.sh start FOLDER`, `cluster.sh stop FOLDER`.
# Needs root and Debian's packages slurm-wlm and munge. Its files lie in FOLDER, but for the link $conf: jobs get no
# SLURM_* variables, so that the place of the settings must be the usual one.
set -euo pipefail
action=$1 folder=$(realpath -m "$2") conf=/etc/slurm/slurm.conf

start() {
  if [ -e $conf ]; then echo "$conf exists: this machine has a cluster already" >&2; return 1; fi
  mkdir -p "$folder"/{state,spool}
  host=$(hostname -s)
  dd if=/dev/urandom of="$folder/munge.key" bs=1024 count=1 status=none
  chmod 0600 "$folder/munge.key"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  cat > "$folder/slurm.conf" <<END
ClusterName=one
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
AuthInfo=socket=$folder/munge.socket
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=2
KillWait=2
MinJobAge=86400
OverTimeLimit=0
NodeName=$host NodeAddr=127.0.0.1 CPUs=$(nproc) RealMemory=4000 State=UNKNOWN
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  mkdir -p /etc/slurm
  ln -sfn "$folder/slurm.conf" $conf
  slurmctld -c
  slurmd -c
  for _ in $(seq 60); do
    if sinfo -h -o %T 2>/dev/null | grep -q idle; then return 0; fi
    sleep 1
  done
  echo "the node did not come up; see the logs in $folder" >&2
  return 1
}

stop() {
  rm -f $conf
  for name in slurmd slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then kill "$(cat "$folder/$name.pid")" || true; fi
  done
}

"$action"
