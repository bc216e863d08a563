/** Removing what hostile builds leave. */
import assert from 'node:assert/strict'
import { chmod, lstat, mkdir, mkdtemp, readFile, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { takeOwnership } from '../../src/build/attempt-directory.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'

test('attempt-directory: removing follows no link, and needs no permission', async () => {
  const top = await mkdtemp(join(tmpdir(), 'mesh-remove-'))
  const outside = join(top, 'outside')
  await mkdir(outside)
  await writeFile(join(outside, 'file'), 'kept')
  const tree = join(top, 'tree')
  await mkdir(join(tree, 'a', 'b'), { recursive: true })
  await symlink(outside, join(tree, 'a', 'link'))
  await symlink('nowhere', join(tree, 'a', 'dangling'))
  await writeFile(join(tree, 'a', 'b', 'file'), '', { mode: 0 })
  await chmod(join(tree, 'a', 'b'), 0)
  await chmod(join(tree, 'a'), 0)
  await takeOwnership(tree)
  assert.equal((await lstat(join(tree, 'a', 'b', 'file'))).mode & 0o400, 0o400)
  await chmod(join(tree, 'a', 'b'), 0)
  await chmod(join(tree, 'a'), 0)
  await removeTree(tree)
  await removeTree(tree)
  await symlink(outside, tree)
  await removeTree(tree)
  assert.equal(await readFile(join(outside, 'file'), 'utf8'), 'kept')
  await removeTree(top)
  await assert.rejects(lstat(top), { code: 'ENOENT' })
})
