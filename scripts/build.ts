/** Makes `dist/` for the package: the sources without types, their declarations, and the files that they read. */
import { spawnSync } from 'node:child_process'
import { cpSync, rmSync } from 'node:fs'
import { join } from 'node:path'

const root = join(import.meta.dirname, '..')
const dist = join(root, 'dist')
rmSync(dist, { recursive: true, force: true })
const tsc = join(root, 'node_modules/.bin/tsc')
const { status } = spawnSync(tsc, ['-p', 'tsconfig.build.json'], { cwd: root, stdio: 'inherit' })
if (status === 0)
  cpSync(join(root, 'src'), dist, {
    recursive: true,
    filter: (path) => !path.endsWith('.ts'),
  })
process.exitCode = status ?? 1
