/** A node whose machine or configuration changes while it runs: what it offers follows, live. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { chmodSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { MESH_NODE } from '../../scripts/cluster.ts'
import type { NodeView } from '../../src/wire/api.ts'
import { openMesh, submitted, until, type Desk } from './meshes.ts'

const factOf = (node: NodeView | undefined, name: string): string | undefined =>
  node?.facts?.find((fact) => fact.name === name)?.value

async function untilNode(
  desk: Desk,
  what: string,
  is: (node: NodeView) => boolean,
): Promise<NodeView> {
  return until(`w1 to be ${what}`, async () => {
    const [node] = await desk.untilReady('w1')
    return node !== undefined && is(node) ? node : undefined
  })
}

test(
  'reload: a fact that changes and a feature that is held back are told above, and jobs follow',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const [script, config] = [join(mesh.directory, 'facts.sh'), join(mesh.directory, 'w1.toml')]
    const tell = (text: string): void => {
      writeFileSync(script, `#!/bin/sh\n${text}\n`)
      chmodSync(script, 0o755)
    }
    const configure = (worker: string): void =>
      writeFileSync(config, `[worker]\nfacts = [${JSON.stringify(script)}]\n${worker}\n`)
    tell('echo vcs=1')
    configure('cpus = 4096')
    const middle = await mesh.start({ name: 'middle', role: 'store', parents: [root] })
    const w1 = await mesh.start({
      name: 'w1',
      role: 'worker,store',
      listen: 'none',
      parents: [middle],
      args: ['--config', config],
    })
    const desk = mesh.desk(root)
    const first = await untilNode(desk, 'known', (node) => factOf(node, 'vcs') !== undefined)
    assert.equal(factOf(first, 'vcs'), '1')
    assert(first.capacity.cpus < 4096, 'no more than there is')
    const cpus = first.facts?.find(({ name }) => name === 'cpus')
    assert.equal(cpus?.source, 'probed')
    assert.match(cpus.how, /^worker\.cpus is 4096, but there are only /)
    assert.match(
      (await desk.mesh('nodes', 'show', 'w1')).stdout,
      /^ {2}fact +vcs = 1 \(declared: /m,
    )

    const file = desk.write(
      'g.mesh.toml',
      `mesh = 1
[derivation.needy]
builder = "/bin/sh"
args = ["-c", "echo done > $out"]
sealed = false
needs = { features = ["vcs-2", "big"] }`,
    )
    const following = desk.follow('submit', file, '--json')
    await desk.untilRequest('accepted', ({ state }) => state !== 'done')
    tell('echo vcs=2')
    configure('cpus = 1\nfeatures = ["big", "-native"]')
    const reload = await promisify(execFile)(MESH_NODE, ['reload', '--data', w1.directory])
    assert.match(reload.stdout, /^w1 \(pid \d+\) reads its configuration/)
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(submitted(ended).jobs, { built: 1, cached: 0, failed: 0, cancelled: 0 })
    const second = await untilNode(desk, 'other', (node) => factOf(node, 'vcs') === '2')
    assert.equal(second.capacity.cpus, 1)
    const features = second.environments.flatMap((environment) => environment.features)
    assert(features.includes('vcs-2') && features.includes('big'))
    assert(!features.includes('vcs-1') && !features.includes('native'))
    assert.equal((await desk.job('needy')).attempts[0]?.node, 'w1')

    await w1.stop()
    await assert.rejects(
      promisify(execFile)(MESH_NODE, ['reload', '--data', w1.directory]),
      /no daemon runs with the data directory/,
    )
  },
)
