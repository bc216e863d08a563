/** `mesh pin`, `unpin`, `du` and `gc` at a real node. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { z } from 'zod'
import { lastJson } from '../../scripts/cluster.ts'
import { GcReport, Pin, Storage } from '../../src/wire/storage.ts'
import { openMesh } from './meshes.ts'

test('storage: what is pinned is told, stays, and may go again', async (t) => {
  await using mesh = await openMesh(t)
  const store = await mesh.start({ name: 's1', role: 'root,store', args: ['--quota', '1 GiB'] })
  const other = await mesh.start({ name: 's2', role: 'store', parents: [store] })
  const [desk, far] = [mesh.desk(store), mesh.desk(other)]
  await desk.untilReady('s2')
  desk.write('tree/deep/file', 'kept\n')
  const put = await desk.mesh('put', 'tree')
  const cid = put.stdout.trim()
  const storage = async (at: typeof desk): Promise<Storage> =>
    Storage.parse(lastJson(await at.mesh('du', '--json')))

  // Fetched first where it is not.
  const pinned = await far.mesh('pin', cid, '--label', 'release', '--json')
  assert.equal(Pin.parse(lastJson(pinned)).kind, 'dir', pinned.stderr)
  const [pin] = z.array(Pin).parse(lastJson(await far.mesh('pin', '--json')))
  assert.equal(pin?.label, 'release')
  assert.equal((await storage(far)).classes.pinned.count, 3)
  assert.deepEqual((await storage(desk)).space.quotaBytes, 2 ** 30)
  assert.match((await far.mesh('du')).stdout, /pinned .* 3 blobs/)

  const report = GcReport.parse(lastJson(await far.mesh('gc', '--json')))
  assert.deepEqual([report.evicted.count, report.classes.pinned?.count], [0, 3])
  assert.match((await far.mesh('gc', '--dry-run')).stdout, /^would free 0 B/)
  assert.equal((await far.mesh('unpin', cid)).code, 0)
  assert.equal((await storage(far)).classes.pinned.count, 0)
  const again = await far.mesh('unpin', cid)
  assert.deepEqual([again.code, again.stderr.includes('MESH0601')], [5, true])
  const nobody = await far.mesh('pin', `bafkrei${'a'.repeat(52)}`)
  assert.notEqual(nobody.code, 0)
  assert.equal((await far.mesh('gc', '--free', 'much')).code, 2)
})
