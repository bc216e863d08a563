/** Directories as a person names them, also where the kernel makes none. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { makeDirectories } from '../../src/files/make-directories.ts'

test('directories: all that are missing are made, what is there is left, a file in the way is refused', async () => {
  const base = mkdtempSync(join(tmpdir(), 'mesh-mkdir-'))
  try {
    await makeDirectories(join(base, 'a/b/c'), 0o700)
    await makeDirectories(join(base, 'a/b/c'), 0o755)
    assert.equal(statSync(join(base, 'a/b/c')).mode & 0o777, 0o700)
    writeFileSync(join(base, 'file'), '')
    await assert.rejects(makeDirectories(join(base, 'file')), { code: 'EEXIST' })
    await assert.rejects(makeDirectories(join(base, 'file/x')), { code: 'ENOTDIR' })
  } finally {
    rmSync(base, { recursive: true })
  }
})

test('directories: where the kernel says that there is no such thing, it ends', async () => {
  await assert.rejects(makeDirectories('/proc/mesh-no-such/x'), { code: 'ENOENT' })
})
