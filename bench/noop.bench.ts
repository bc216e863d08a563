/** Jobs per second end to end when the jobs do nothing, and how soon a job starts on an idle mesh. */
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { z } from 'zod'
import { lastJson, openCluster } from '../scripts/cluster.ts'
import { startSmallMesh, submit } from '../scripts/small-mesh.ts'
import { JobView, RequestView } from '../src/wire/api.ts'
import { independentGraph } from './independent-graph.ts'
import { figure, quantile, timed, type Subject } from './subject.ts'

const JOBS = 1000
const SINGLE_SUBMITS = 100
const COMMAND = ': > "$out"'

export const subject: Subject = {
  name: 'noop',
  async run({ signal, log }) {
    await using cluster = await openCluster('mesh-bench', { signal })
    const { dev } = await startSmallMesh(cluster)
    const file = join(cluster.directory, 'graph.json')
    await writeFile(file, independentGraph(JOBS, COMMAND, 'many'))
    const wallMs = await timed(() => submit(cluster, dev, file))
    log(`${JOBS} jobs in ${wallMs.toFixed()} ms`)

    const startMs: number[] = []
    for (let index = 0; index < SINGLE_SUBMITS; index++) {
      await writeFile(file, independentGraph(1, COMMAND, `single ${index}`))
      const { request } = await submit(cluster, dev, file)
      const requests = await cluster.mesh(dev, ['jobs', '--requests', request, '--json'])
      const jobs = await cluster.mesh(dev, ['jobs', request, '--json'])
      const [submitted] = z.array(RequestView).parse(lastJson(requests))
      const [job] = z.array(JobView).parse(lastJson(jobs))
      const startedAt = job?.attempts[0]?.startedAt
      if (submitted === undefined || startedAt === undefined)
        throw new Error(`${request} has no attempt`)
      startMs.push(Date.parse(startedAt) - Date.parse(submitted.submittedAt))
    }
    return {
      'jobs per second': figure(JOBS / (wallMs / 1000), '/s'),
      'from submit to start, p50': figure(quantile(startMs, 0.5), 'ms'),
      'from submit to start, p99': figure(quantile(startMs, 0.99), 'ms'),
    }
  },
}
