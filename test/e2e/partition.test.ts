/** A worker that is cut off and comes back: its lease ends, its job goes elsewhere, its late result harms nothing. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { starFor } from '../support/netns.ts'
import { openMesh, submitted, until } from './meshes.ts'

test(
  'partition: a worker behind a cut line loses its job to another, and works again afterwards',
  { timeout: 120_000 },
  async (t) => {
    const star = starFor(t, 1)
    if (star === undefined) return
    await using mesh = await openMesh(t)
    const within = star.atHub
    const root = await mesh.start({
      name: 'root',
      role: 'root,store',
      within,
      listen: '/ip4/0.0.0.0/tcp/0',
      args: ['--allow', 'any'],
    })
    const [, port = ''] = /\/tcp\/(\d+)/.exec(root.file.listen[0] ?? '') ?? []
    await mesh.start({
      name: 'far',
      role: 'worker,store',
      listen: 'none',
      cpus: 1,
      within: star.at(0),
      args: ['--parent', `/ip4/${star.hubAddress(0)}/tcp/${port}`],
    })
    const desk = mesh.desk(root)
    await desk.untilReady('far')
    desk.write(
      'graph.mesh.toml',
      `mesh = 1\n[derivation.nap]\nbuilder = "/bin/sh"\nargs = ["-c", 'sleep 12; date +%s%N > $out']\n`,
    )
    const following = desk.follow('submit', 'graph.mesh.toml', '--json')
    await desk.untilJob('nap', 'building')
    await mesh.start({
      name: 'near',
      role: 'worker,store',
      listen: 'none',
      cpus: 1,
      parents: [root],
      within,
    })
    await desk.untilReady('near')
    star.cut(0)
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.deepEqual(
      (await desk.job('nap')).attempts.map(({ node, state }) => [node, state]),
      [
        ['far', 'lost'],
        ['near', 'done'],
      ],
    )
    const made = submitted(ended).outputs
    star.heal(0)
    await desk.untilReady('far', 'near')
    await until('its late result to be told', async () =>
      (await desk.request())?.notices.join().includes('not reproducible') === true
        ? true
        : undefined,
    )
    const again = await desk.mesh('submit', 'graph.mesh.toml', '--json')
    assert.deepEqual(
      [again.code, submitted(again).outputs, submitted(again).jobs.cached],
      [0, made, 1],
    )
  },
)
