// An authorization server for tests: oidc-provider with clients of every kind, over TLS. Reads one JSON object from
// standard input, writes its port to standard output, and ends with its standard input.
import { createPublicKey } from 'node:crypto';
import { createServer } from 'node:https';
import { createInterface } from 'node:readline';
import * as jose from 'jose';
import Provider from 'oidc-provider';

const lines = createInterface({ input: process.stdin });
const config = JSON.parse((await lines[Symbol.asyncIterator]().next()).value);
process.stdin.on('end', () => process.exit(0)).resume();

const jwk = (pem) => createPublicKey(pem).export({ format: 'jwk' });
const machine = { grant_types: ['client_credentials'], response_types: [], redirect_uris: [], scope: 'read write' };
const person = {
  grant_types: ['authorization_code', 'refresh_token'],
  redirect_uris: [config.redirect_uri],
  scope: 'openid offline_access read',
};
const clients = [
  { client_id: 'post', client_secret: config.secret, token_endpoint_auth_method: 'client_secret_post', ...machine },
  { client_id: 'basic', client_secret: config.secret, token_endpoint_auth_method: 'client_secret_basic', ...machine },
  { client_id: 'service', client_secret: config.secret, ...machine },
  { client_id: 'web', client_secret: config.secret, token_endpoint_auth_method: 'client_secret_post', ...person },
  { client_id: 'public', token_endpoint_auth_method: 'none', ...person },
  ...config.keys.map(([name, pem, alg]) => ({
    client_id: name,
    token_endpoint_auth_method: 'private_key_jwt',
    token_endpoint_auth_signing_alg: alg,
    jwks: { keys: [{ ...jwk(pem), kid: `key-${name}` }] },
    ...machine,
  })),
];

const provider = new Provider(config.issuer, {
  clients,
  scopes: ['openid', 'offline_access', 'read', 'write'],
  features: {
    clientCredentials: { enabled: true },
    introspection: { enabled: true },
    revocation: { enabled: true },
    devInteractions: { enabled: true },
  },
  enabledJWA: { clientAuthSigningAlgValues: ['RS256', 'PS256', 'ES256', 'ES384', 'EdDSA'] },
  pkce: { required: () => true, methods: ['S256'] },
  rotateRefreshToken: true,
  ttl: { AccessToken: config.lifetime, ClientCredentials: config.lifetime },
  findAccount: (ctx, id) => ({ accountId: id, claims: () => ({ sub: id }) }),
});
provider.proxy = false;

// What a service account's assertion is answered with (RFC 7523), which oidc-provider leaves to extensions; it wants a
// client's authentication besides, which such issuers do not. The assertion is verified by `jose`.
const body = (request) =>
  new Promise((resolve) => {
    let text = '';
    request.on('data', (data) => (text += data)).on('end', () => resolve(new URLSearchParams(text)));
  });
provider.use(async (ctx, next) => {
  if (ctx.path !== '/service/token') return next();
  const form = await body(ctx.req);
  ctx.type = 'json';
  try {
    const key = await jose.importSPKI(config.service, 'RS256');
    const { payload, protectedHeader } = await jose.jwtVerify(form.get('assertion') ?? '', key, {
      issuer: 'robot@project.test',
      audience: `${config.issuer}/service/token`,
      maxTokenAge: '10m',
      requiredClaims: ['exp', 'iat', 'jti'],
    });
    if (form.get('grant_type') !== 'urn:ietf:params:oauth:grant-type:jwt-bearer') throw new Error('grant_type');
    if (protectedHeader.kid !== 'robot-key') throw new Error('kid');
    const client = await provider.Client.find('service');
    const token = new provider.ClientCredentials({ client, scope: payload.scope });
    if (payload.sub) token.extra = { subject: payload.sub };
    const value = await token.save();
    ctx.body = { access_token: value, token_type: 'Bearer', expires_in: config.lifetime, subject: payload.sub };
  } catch (error) {
    ctx.status = 400;
    ctx.body = { error: 'invalid_grant', error_description: String(error.message) };
  }
});

// Counts requests, and fails those that it is told to.
const counts = {};
let failures = [];
const handle = provider.callback();
const server = createServer({ cert: config.certificate, key: config.key }, (request, response) => {
  const path = request.url.split('?')[0];
  if (path === '/test/counts') return response.end(JSON.stringify(counts));
  if (path === '/test/fail') {
    failures.push(...JSON.parse(decodeURIComponent(request.url.split('?')[1])));
    return response.end('[]');
  }
  counts[path] = (counts[path] ?? 0) + 1;
  if (path === '/token' && failures.length > 0) {
    const [status, headers] = failures.shift();
    response.writeHead(status, headers ?? {});
    return response.end();
  }
  return handle(request, response);
});
server.listen(0, '127.0.0.1', () => {
  console.log(server.address().port);
  // Nobody reads on.
  console.log = console.info = () => {};
});
