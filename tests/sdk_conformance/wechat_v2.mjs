// WeChat Pay's APIv2 through `wechatpay-axios-plugin`: `node wechat_v2.mjs COMMAND` with a JSON input on
// stdin and a JSON result on stdout.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Agent } from 'node:https';
import { join } from 'node:path';
import { Aes, Formatter, Hash, Transformer, Wechatpay } from 'wechatpay-axios-plugin';

const commands = {
  // A merchant uses the sandbox; the SDK rejects a response with a wrong signature.
  async client({ url, folder, number, signType, account }) {
    const { v2 } = client(url, folder, account);
    const own = { appid: account.appid, mch_id: account.mchid, sign_type: signType };
    const order = { ...own, body: '茶 <a> & b', total_fee: '888', spbill_create_ip: '203.0.113.9' };
    const native = {
      ...order, out_trade_no: number, notify_url: 'https://shop.example.com/notify', trade_type: 'NATIVE', product_id: 'p1',
    };
    const named = { ...own, out_trade_no: number };
    const till = `${number}-till`;
    const back = { ...own, out_trade_no: till, out_refund_no: `${number}-back`, total_fee: '888', refund_fee: '300' };
    const seen = {};
    seen.created = (await v2.pay.unifiedorder.post(native)).data;
    seen.state = (await v2.pay.orderquery.post(named)).data.trade_state;
    seen.closed = (await v2.pay.closeorder.post(named)).data.result_code;
    seen.afterwards = (await v2.pay.orderquery.post(named)).data.trade_state;
    seen.scanned = (await v2.pay.micropay.post({ ...order, out_trade_no: till, auth_code: account.code })).data;
    seen.refunded = (await v2.secapi.pay.refund.post(back, { security: true })).data;
    seen.refunds = (await v2.pay.refundquery.post({ ...own, out_trade_no: till })).data;
    seen.unknown = await refused(v2.pay.orderquery.post({ ...own, out_trade_no: 'never-was' }));
    seen.naked = await refused(v2.secapi.pay.refund.post(back));
    const otherMerchant = client(url, folder, { ...account, api: account.otherApi });
    seen.forged = await refused(otherMerchant.v2.pay.orderquery.post(named));
    return seen;
  },

  // A payment's notification as WeChat Pay sends it.
  payment({ api, signType, fields }) {
    const body = { ...fields, nonce_str: Formatter.nonce() };
    return Transformer.toXml({ ...body, sign: Hash.sign(signType, body, api) });
  },

  // A refund's notification: the content is encrypted, and nothing is signed.
  refund({ api, fields, hidden }) {
    const plain = Transformer.toXml(hidden).replace(/^<xml>/, '<root>').replace(/<\/xml>$/, '</root>');
    const key = createHash('md5').update(api).digest('hex');
    return Transformer.toXml({ ...fields, nonce_str: Formatter.nonce(), req_info: Aes.AesEcb.encrypt(plain, key) });
  },
};

function client(url, folder, { mchid, api }) {
  const file = (name) => readFileSync(join(folder, name));
  const [ca, cert, key] = ['ca.pem', 'apiclient_cert.pem', 'apiclient_key.pem'].map(file);
  return new Wechatpay({
    mchid,
    secret: api,
    merchant: { ca, cert, key },
    // Required by the constructor; APIv3 is not used here.
    serial: 'none',
    privateKey: key,
    certs: { any: cert },
    baseURL: url,
    httpsAgent: new Agent({ ca }),
  });
}

// Returns why the SDK rejects the response.
async function refused(request) {
  try {
    return { taken: (await request).data };
  } catch (error) {
    return { code: error.code, status: error.response?.status, data: error.response?.data ?? error.message };
  }
}

const question = JSON.parse(readFileSync(0, 'utf8'));
console.log(JSON.stringify(await commands[process.argv[2]](question)));
