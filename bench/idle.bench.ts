/** Memory and processor time of a node that has nothing to do: root, worker and store in one. */
import { setTimeout as delay } from 'node:timers/promises'
import { openCluster } from '../scripts/cluster.ts'
import { cpuSeconds, residentBytes } from './processes.ts'
import { figure, timed, type Subject } from './subject.ts'

const IDLE_MS = 30_000

export const subject: Subject = {
  name: 'idle',
  async run({ signal, log }) {
    await using cluster = await openCluster('mesh-bench', { signal })
    let pid = 0
    const readyMs = await timed(async () => {
      pid = (await cluster.start({ name: 'alone', role: 'root,worker,store' })).pid
    })
    log(`waiting ${IDLE_MS / 1000} s`)
    const before = cpuSeconds([pid])
    await delay(IDLE_MS, undefined, { signal })
    return {
      'from start to ready': figure(readyMs, 'ms'),
      'resident memory': figure(residentBytes(pid) / 2 ** 20, 'MiB'),
      'processor while idle': figure(((cpuSeconds([pid]) - before) / (IDLE_MS / 1000)) * 100, '%'),
    }
  },
}
